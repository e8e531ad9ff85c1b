"""Step 4: test the weights on photos that training never saw.

    python test.py                                          # data/test/<class>/*, photos and clips -> plots/
    python test.py "WEIGHTS=weights/best_weights_*.pt"      # one table that compares the epochs
    python test.py TEST_DIR=processed/valid CROPPED=True    # crops from processed.py instead of photos

Reads photos, finds the main face of each, crops and classifies it as realtime.py does, and prints the metrics.
Writes confusion_matrix.png, roc.png, reliability.png, errors.png, predictions.csv and test_metrics.json into plots/,
groups.png if data/people.csv has ages or ethnicities, and robustness.png with ROBUSTNESS=True. Photos without a face
are counted separately. Clips (.mp4 and other usual formats) have metrics of their own: they are played as in the live
window, and measured frame by frame.
"""

from terminal import script  # isort: skip  # first, so that Ctrl-C during the other imports is one line

import collections
import itertools
import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

import processed
from faces import cropping, detectors, people, reading
from judge import clip_metrics, metrics, overlap, plots, report
from live import capture, videos
from terminal import rules, workers
from terminal.files import atomic
from terminal.places import check_outputs
from terminal.records import claim, remove_ours

# PyTorch, and modules that need it, are imported in the functions that use them: each worker process imports this file,
# and would otherwise wait seconds for modules that it does not use.

# ------------------------------------------------------------------------------------------------
TEST_DIR = "data/test"  # one subfolder per class, with the names of the classes in the weights file
WEIGHTS = None  # a file, or a pattern such as weights/best_weights_*.pt; None: as in realtime.py
PLOTS_DIR = "plots"
PLOT_FORMAT = "png"  # file format of the plots; "pdf" for reports

PEOPLE = people.PEOPLE  # who is in the photos; without it, each photo counts as another person, without groups
CROPPED = False  # True: TEST_DIR holds crops made by processed.py, and no face detector is used
ROBUSTNESS = False  # True: also measure the accuracy on corrupted crops (light, blur, noise, ...)
ROBUSTNESS_PHOTOS = 500  # how many photos, chosen at random, are corrupted, once for each kind and severity; 0: all
ERRORS_SHOWN = 16  # most confident mistakes in errors.png
SEED = 0  # of the bootstrap, and of the choice of ROBUSTNESS_PHOTOS
BATCH_SIZE = 64  # crops per pass; affects memory only
WORKERS = 0  # processes that find faces; 0: one per core
BACKEND = processed.BACKEND  # where the processes run
FONT = None  # a .ttf or .otf file with the letters of your class names; None: a font of this machine that has them
# ------------------------------------------------------------------------------------------------

DRAWN = ("confusion_matrix", "roc", "reliability", "errors", "groups", "robustness")  # names of the plots
FILL_TEST = "put photos that training never saw into <class>/ folders there, or run 'python data/drawn.py'"
IN_PROCESS = 60  # below this number of photos, starting workers takes longer than the work


def files_by_class(folder, classes, weights):
    """(photos, clips), each [(path, class)], in folder/<class>/. The program ends if a class folder is none of the
    `classes` of the weights file `weights`."""
    photos_of, clips_of = {}, {}
    for name, places in reading.class_folders(folder, FILL_TEST).items():
        photos_of[name], clips_of[name] = [], []
        for place in places:
            photos, clips = videos.photos_and_clips(place)
            photos_of[name] += photos
            clips_of[name] += clips
    if not photos_of:
        script.fail(f"{folder} has no class folders: {FILL_TEST}")
    names = [n for n in photos_of if photos_of[n] or clips_of[n]] or list(photos_of)
    unknown = [n for n in names if n not in classes]
    if unknown:
        script.fail(f"{folder} has the class folders {', '.join(names)}, but {weights} has {', '.join(classes)}: "
                    f"rename {', '.join(unknown)}, or import the photos again with RENAME of data/folders.py")
    photos = [(path, name) for name in names for path in photos_of[name]]
    clips = [(path, name) for name in names for path in clips_of[name]]
    if not photos and (CROPPED or not clips):
        script.fail(f"{folder} has no photos: {FILL_TEST}")
    absent = [c for c in classes if not photos_of.get(c)]
    if absent and photos:
        print(f"no photos of {', '.join(absent)} in {folder}: their recall is undefined, "
              f"and so is the AUC if only one class is left")
    if CROPPED and clips:
        print(f"{len(clips)} clips, such as {clips[0][0].as_posix()}, are left out: CROPPED=True takes only crops")
    return photos, [] if CROPPED else clips


def training_photos():
    """The photos of processed.py, to find copies of them in TEST_DIR; none if TEST_DIR holds crops."""
    raw = Path(processed.RAW_DIR)
    return reading.list_photos(raw) if raw.is_dir() and not CROPPED else []


def cut_for(classifier):
    """(margin, clahe) of the crops for a Classifier, see cropping.crop_face()."""
    return classifier.margin, classifier.clahe


class Prepared(NamedTuple):
    """A photo ready for the network: the crops of its face, or why there are none."""

    status: str  # "ok", "no face" or "unreadable"
    reason: str = ""  # why it is not "ok"
    box: tuple | None = None  # of the face: x, y, width, height; None for a crop too
    crops: tuple = ()  # uint8 [H, W, 3], RGB, one for each of the `cuts` of prepare()


def prepare(path, cuts, detector):
    """Worker: the Prepared of a photo. `cuts`: list of cut_for(); `detector`: its name, or None for a crop by
    processed.py, which is only cut to the margins, since the rest has been done."""
    try:
        if detector is None:
            crop, size = cropping.read_crop(path), (cropping.IMAGE_SIZE, cropping.IMAGE_SIZE)
            crop = crop if crop.shape[:2] == size else cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
            return Prepared("ok", crops=tuple(cropping.recut(crop, cropping.MARGIN, margin) for margin, _ in cuts))
        image = reading.read_photo(path)
        face = detectors.get(detector).main_face(image)
        if face is None:
            return Prepared("no face", "no face found")
        crops = tuple(cropping.crop_face(image, face.box, margin, clahe, face.roll) for margin, clahe in cuts)
        return Prepared("ok", "", tuple(round(side) for side in face.box), crops)
    except reading.PhotoError as error:
        return Prepared("unreadable", str(error))


def prepare_all(paths, cuts):
    """Yield the Prepared of each path, in order, using all cores. Only some photos are prepared ahead, to limit memory.
    """
    detector = None if CROPPED else detectors.get(processed.DETECTOR).name
    # Absolute paths, since workers on other machines start in other folders.
    jobs = ((path.absolute(), cuts, detector) for path in paths)
    count = WORKERS or workers.cores()
    if count == 1 or len(paths) < IN_PROCESS:
        yield from itertools.starmap(prepare, jobs)
        return
    yield from workers.in_processes(prepare, jobs, count, BACKEND)


def classify(photos, classifiers):
    """One pass over the photos, [(path, class)], for all classifiers.

    Returns the report.Rows, one per photo, and for each classifier what predict() returns for all faces: float32
    [found, C] and [found]; () if no face was found.
    """
    cuts = sorted({cut_for(classifier) for classifier in classifiers})
    rows, waiting = [], []  # waiting: the crops of each face, for the next batch
    outputs = [[] for _ in classifiers]  # what predict() returns, batch by batch
    all_prepared = prepare_all([path for path, _ in photos], cuts)
    bar = tqdm(zip(photos, all_prepared, strict=True), total=len(photos), unit=" photos", desc="faces")
    for (path, name), prepared in bar:
        rows.append(report.Row(path, name, prepared.status, prepared.reason, prepared.box))
        if prepared.status == "ok":
            waiting.append(prepared.crops)
        if waiting and (len(waiting) == BATCH_SIZE or len(rows) == len(photos)):
            for batches, classifier in zip(outputs, classifiers, strict=True):
                index = cuts.index(cut_for(classifier))
                batches.append(classifier.predict([crops[index] for crops in waiting]))
            waiting = []
    return rows, [joined(batches) for batches in outputs]


def joined(batches):
    """What predict() returned for each batch, as if for all at once; () without a batch."""
    if not batches:
        return ()
    probabilities, child = zip(*batches, strict=True)
    return np.concatenate(probabilities), np.concatenate(child)


class Answers(NamedTuple):
    """The predictions of one weights file for the photos. N is the number of photos in which a face was found."""

    rows: list  # of report.Row, one per photo
    labels: np.ndarray  # int [N]
    probabilities: np.ndarray  # float32 [N, C]
    child: np.ndarray  # float32 [N], probability that each is a child's face
    classifier: object  # learn.classifier.Classifier
    clusters: np.ndarray  # int [N], see people.clusters()

    @property
    def found(self):
        """The N rows with a face."""
        return [row for row in self.rows if row.status == "ok"]

    @property
    def confidence(self):
        """The largest probability of each face, float32 [N]."""
        return self.probabilities.max(1)

    @property
    def trusted(self):
        """The confidence, or 0 for the face of a child, which is always "unsure": float32 [N]."""
        return self.classifier.trusted(self.probabilities, self.child)

    @property
    def sure(self):
        """Whether each face gets a class, instead of "unsure": bool [N]."""
        return self.trusted >= self.classifier.threshold

    @property
    def correct(self):
        """Whether the most probable class of each face is the right one, "unsure" or not: bool [N]."""
        return self.probabilities.argmax(1) == self.labels


def by_group(answers, table):
    """Print and return metrics.group_report() of the photos in `table`; None if it has none of them.

    `answers`: Answers; `table`: {name of a photo: people.Person}, returned by people.read(), or None.
    """
    if table is None:
        return None
    readable = [row for row in answers.rows if row.status != "unreadable"]
    found = np.array([row.status == "ok" for row in readable])
    correct, sure = np.zeros((2, len(readable)), bool)
    correct[found], sure[found] = answers.correct, answers.sure
    known = people.of_all(table, [row.path for row in readable])
    classes = [row.class_name for row in readable]
    groups = metrics.group_report(known, classes, found, correct, sure, people.clusters(known))
    if groups:
        report.show_groups(groups)
    else:
        print(f"\n{PEOPLE} has neither ages nor ethnicities of these photos: no report by group")
    return groups


def crops_of(answers, chosen):
    """Yield the crops of faces (`chosen`: their indices), uint8 [H, W, 3] RGB, again from their photos, since not all
    crops of a test fit into memory. Raises script.Problem if a photo cannot be read any more."""
    found = answers.found
    paths = [found[i].path for i in chosen]
    all_prepared = prepare_all(paths, [cut_for(answers.classifier)])
    for path, prepared in zip(paths, all_prepared, strict=True):
        if prepared.status != "ok":
            raise script.Problem(f"{path} has changed during the test ({prepared.reason}): run the same command again")
        yield prepared.crops[0]


def measure_robustness(answers):
    """The rows returned by corruptions.measure() for ROBUSTNESS_PHOTOS of the faces."""
    from judge import corruptions

    classifier, count = answers.classifier, len(answers.labels)
    chosen = np.arange(count)
    if 0 < ROBUSTNESS_PHOTOS < count:
        chosen = np.sort(np.random.default_rng(SEED).choice(count, ROBUSTNESS_PHOTOS, replace=False))
    crops = list(tqdm(crops_of(answers, chosen), total=len(chosen), unit=" photos", desc="faces again"))
    return corruptions.measure(crops, answers.labels[chosen], lambda batch: classifier.predict(batch)[0],
                          len(classifier.classes), classifier.margin)


def mistakes(answers):
    """The panels for report.errors(): (crop, heat map, title) of the most confident mistakes."""
    classifier, confidence = answers.classifier, answers.confidence
    predicted = answers.probabilities.argmax(1)
    wrong = np.flatnonzero(~answers.correct)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:ERRORS_SHOWN]
    if not len(wrong):
        return []
    crops = list(crops_of(answers, wrong))
    heats = classifier.explain(crops, predicted[wrong].tolist())
    titles, found = [], answers.found
    for i in wrong:
        row, called = found[i], classifier.classes[predicted[i]]
        titles.append(f"{row.path.name[-40:]}\n{row.class_name}, called {called} {confidence[i]:.1%}")
    return [(crop, cv2.resize(heat.astype(np.float32), crop.shape[1::-1]), title)
            for crop, heat, title in zip(crops, heats, titles, strict=True)]


def play(clips, classifier):
    """Play [(path, class)] as realtime.py does, and print the metrics. Returns what clip_metrics.evaluate() returns."""
    capture.quiet()
    return clip_metrics.evaluate(clips, lambda path: videos.labels(path, classifier, detectors.get(processed.DETECTOR)))


def plot_file(name, ending=None):
    """The name of the file of one of the plots DRAWN. `ending`: of plots.ENDINGS; by default PLOT_FORMAT."""
    return f"{name}.{ending or PLOT_FORMAT}"


def written():
    """Names of the files that a run writes into PLOTS_DIR."""
    return [*map(plot_file, DRAWN), "predictions.csv", "test_metrics.json"]


def finish(folder, drawn, result):
    """Delete the plots of an earlier run, in any format, that this one, which has drawn the plots `drawn`, has not
    replaced, and write test_metrics.json, the last file of a run."""
    every_plot = {plot_file(name, ending) for name in DRAWN for ending in plots.ENDINGS}
    remove_ours(folder, every_plot - {plot_file(name) for name in drawn})
    with atomic(folder / "test_metrics.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def write(folder, answers, result, clip_rows):
    """Write all files of a run, test_metrics.json last. `result`: the dict for test_metrics.json; `clip_rows`: the
    report.Rows returned by play()."""
    classes = answers.classifier.classes
    paths = {name: folder / plot_file(name) for name in DRAWN}
    drawn = ["confusion_matrix", "roc", "reliability", "errors"]
    report.confusion_matrix(paths["confusion_matrix"], result["confusion"], classes)
    report.roc(paths["roc"], answers.probabilities, answers.labels, classes)
    report.reliability(paths["reliability"], answers.confidence, answers.correct, answers.trusted,
                       answers.classifier.threshold, answers.clusters)
    report.errors(paths["errors"], mistakes(answers))
    if result["groups"]:
        report.groups(paths["groups"], result["groups"])
        drawn.append("groups")
    if result["robustness"]:
        report.robustness(paths["robustness"], result["robustness"])
        drawn.append("robustness")
    report.write_predictions(folder / "predictions.csv", answers.rows + clip_rows, answers.probabilities, classes,
                             answers.sure)
    finish(folder, drawn, result)


def evaluate_clips(clips, classifier, folder):
    """Play the clips, and write predictions.csv and test_metrics.json."""
    rows, figures = play(clips, classifier)
    report.write_predictions(folder / "predictions.csv", rows, None, classifier.classes)
    finish(folder, [], {"weights": classifier.path.as_posix(), "classes": classifier.classes, "clips": figures})


def evaluate_photos(photos, clips, loaded, table, folder):
    """Test the Classifiers `loaded` on the photos; then detail the best one, and play the clips with it.

    `photos`, `clips`: [(path, class)]; `table`: returned by people.read(); `folder`: for the files of this run.
    """
    classes = loaded[0].classes
    takes = people.takes(people.of_all(table, [path for path, _ in photos]))
    copied = overlap.find_copies(photos, training_photos(), takes)
    rows, outputs = classify(photos, loaded)
    found = [row for row in rows if row.status == "ok"]
    without = [row for row in rows if row.status == "no face"]
    unreadable = len(rows) - len(found) - len(without)
    if not found:
        report.write_predictions(folder / "predictions.csv", rows, None, classes)
        finish(folder, [], {"weights": loaded[0].path.as_posix(), "classes": classes, "n": 0, "no_face": len(without),
                            "unreadable": unreadable})
        script.fail(f"no face in any of the {len(rows)} photos of {TEST_DIR}: {folder / 'predictions.csv'} says why, "
                    f"photo by photo" + ("" if CROPPED else "; face crops need CROPPED=True"))
    labels = np.array([classes.index(row.class_name) for row in found], int)
    missed = np.array([classes.index(row.class_name) for row in without], int)
    clusters = people.clusters(people.of_all(table, [row.path for row in found + without]))
    summaries = [metrics.summary(probabilities, labels, missed, clusters, SEED) for probabilities, _ in outputs]
    best = report.compare(loaded, summaries) if len(loaded) > 1 else 0
    answers = Answers(rows, labels, *outputs[best], loaded[best], clusters[:len(found)])
    coverage = metrics.coverage(answers.trusted, answers.correct, loaded[best].threshold)
    report.show(summaries[best], coverage, classes, collections.Counter((row.class_name, row.status) for row in rows))
    groups = by_group(answers, table)
    robustness = measure_robustness(answers) if ROBUSTNESS else None
    clip_rows, clip_figures = play(clips, loaded[best])
    result = {"weights": loaded[best].path.as_posix(), "classes": classes, "unreadable": unreadable, **summaries[best],
              "coverage": coverage, "copies": copied, "groups": groups, "robustness": robustness,
              "epochs": epochs_of(loaded, summaries) if len(loaded) > 1 else None, "clips": clip_figures}
    write(folder, answers, result, clip_rows)
    print(f"\n{result['n']} faces, {result['no_face']} photos without a face, {unreadable} unreadable; pictures, "
          f"predictions.csv and test_metrics.json are in {folder.as_posix()}")


def epochs_of(loaded, summaries):
    """The metrics of each of several Classifiers: list of dicts, returned by metrics.summary(), with its weights file
    and epoch."""
    return [{"weights": classifier.path.as_posix(), "epoch": classifier.epoch, **summary}
            for classifier, summary in zip(loaded, summaries, strict=True)]


RULES = dict(TEST_DIR=str, WEIGHTS=rules.optional(str), PLOTS_DIR=str, PLOT_FORMAT=plots.ENDINGS, PEOPLE=str,
             CROPPED=bool, ROBUSTNESS=bool, ROBUSTNESS_PHOTOS=(int, 0, None), ERRORS_SHOWN=(int, 0, 10_000),
             SEED=(int, 0, 2**63 - 1), BATCH_SIZE=(int, 1, None), WORKERS=(int, 0, 10_000), BACKEND=workers.BACKENDS,
             FONT=rules.optional(str))


def main():
    from learn import devices
    from learn.classifier import load_all

    rules.check(globals())
    rules.check(vars(processed))
    if FONT:
        plots.use_font(FONT)
    check_outputs(globals(), "PLOTS_DIR")
    devices.limit_threads()
    table = people.read(PEOPLE)
    loaded, folder = load_all(WEIGHTS), Path(PLOTS_DIR)
    photos, clips = files_by_class(TEST_DIR, loaded[0].classes, loaded[0].path)
    print(f"{len(photos)} photos and {len(clips)} clips of {TEST_DIR}")
    print("\n".join(f"weights: {each}" for each in loaded))
    claim(folder, written())
    if photos:
        evaluate_photos(photos, clips, loaded, table, folder)
    else:
        evaluate_clips(clips, loaded[-1], folder)  # the last weights file, since only photos tell which is the best


if __name__ == "__main__":
    rules.override(globals())
    script.run(main)
