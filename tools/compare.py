"""Trains variants of the constants, each from several seeds: an ablation, or a search for hyperparameters.

    python -m tools.compare                                       CLAHE and occlusion on and off, see VARIANTS
    python -m tools.compare "VARIANTS={'low': {'LR': 5e-4}, 'high': {'LR': 2e-3}}" "SETTINGS={'EPOCHS': 6}"
    python -m tools.compare NEW_SPLITS=True TEST_DIR= "SEEDS=(0, 1, 2, 3, 4)"    a split for each seed, as in papers

It runs train.py for each variant and seed, and test.py on data/test with the resulting weights, in
compare/<variant>/<seed>/. It prints the means and standard deviations over the seeds, and writes compare/results.csv.
After a stop, the same command continues; with another TEST_DIR only the test is made again. Choose by the validation
loss: a test set used for selection no longer measures generalisation.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs from any folder
from terminal import script  # isort: skip  # first, so that Ctrl-C during the other imports is one line

# ruff: noqa: E402
import csv
import functools
import itertools
import json
import re
import statistics

from tqdm import tqdm

import processed
import train
from faces import cropping, people, reading, splits
from learn import classifier
from live import videos
from terminal import rules, workers
from terminal.files import atomic
from terminal.places import PLACES, check_outputs
from terminal.records import SPLIT, claim, claim_file, claim_table, remove_ours, written

# ------------------------------------------------------------------------------------------------
# {name: constants of train.py that differ, and CLAHE, the clip limit of the crops' equalisation}
VARIANTS = {"plain": {}, "CLAHE": {"CLAHE": 2.0}, "occlusion": {"AUGMENT": "occlusion"},
            "both": {"CLAHE": 2.0, "AUGMENT": "occlusion"}}
SEEDS = (0, 1, 2)
SETTINGS = {}  # constants of train.py for all variants, such as {"MODEL": "small", "EPOCHS": 8}
TRAIN_DIR, VALID_DIR = train.TRAIN_DIR, train.VALID_DIR
TEST_DIR = PLACES["TEST_DIR"]  # "": no test; use that for a search
ROBUSTNESS_PHOTOS = 500  # test photos that are corrupted, for the columns occlusion and covered; 0: all
NEW_SPLITS = False  # True: also make a new split of processed/faces for each seed, by validation.py
RUNS_DIR = "compare"
# ------------------------------------------------------------------------------------------------

COLUMNS = ("valid_loss", "valid_accuracy", "test_accuracy", "occlusion", "covered")
OWN = {"SEED", "RESUME", "TRAIN_DIR", "VALID_DIR", "WEIGHTS_DIR", "PLOTS_DIR"}  # of train.py, set by this script


def run(name, constants):
    """Run another script as a user does, with `constants` on its command line; ends the program if it fails."""
    settings = [f"{key}={value!r}" if not isinstance(value, str) else f"{key}={value}"
                for key, value in constants.items()]
    status = workers.run_program(sys.executable, str(ROOT / name), *settings)
    if status:
        script.fail(f"{name} ended with status {status}, for the reason above: mend that and start again; finished "
                    "runs are kept")


def equalised(folder, limit):
    """A copy of a split with CLAHE applied to every crop, as by processed.py. Returns the copy's path.

    The split stays the same, so that variants differ only in CLAHE; the crops are encoded as JPEG a second time. All
    are computed again, since a crop may have changed under the same name and time, but only changed ones are written.
    """
    copy = Path(RUNS_DIR, f"clahe_{limit:g}", Path(folder).parent.name, Path(folder).name)
    wanted = {p.relative_to(folder).as_posix(): p for p in reading.list_photos(folder)}
    remove_ours(copy, written(copy) - wanted.keys() - {SPLIT})  # e.g. crops that have moved to the other side
    claim(copy, [SPLIT, *wanted])
    strange = {p.relative_to(copy).as_posix() for p in reading.list_photos(copy)} - wanted.keys()
    if strange:
        script.fail(f"{copy / min(strange)} was not written by this script: move it elsewhere")
    for name, crop in tqdm(wanted.items(), desc=f"CLAHE {limit:g}, {copy.name}", unit="crop", leave=False):
        target, data = copy / name, cropping.encode(cropping.equalise(cropping.read_crop(crop), limit))
        if not target.is_file() or target.read_bytes() != data:
            with atomic(target) as temporary:
                temporary.write_bytes(data)
    notes = splits.read(folder) or splits.Split({}, [], None, 0.0, dict.fromkeys(wanted, people.Person()))
    splits.write(copy, notes._replace(clahe=limit))
    return copy


@functools.cache  # so that the runs that share folders do not make them again
def folders_of(split_seed, limit):
    """The folders of training and validation crops, equalised with `limit` unless it is 0.0. `split_seed`: that of a
    new split; None: TRAIN_DIR and VALID_DIR."""
    folders = TRAIN_DIR, VALID_DIR
    if split_seed is not None:
        folders = [str(Path(RUNS_DIR, f"split_{split_seed}", name)) for name in ("train", "valid")]
        run("validation.py", {"SEED": split_seed, "TRAIN_DIR": folders[0], "VALID_DIR": folders[1]})
    return [str(equalised(folder, limit)) for folder in folders] if limit else folders


def one_run(variant, seed):
    """Train and test a variant, unless that has been done. Returns a dict of COLUMNS, None: not measured."""
    folder = Path(RUNS_DIR, variant, str(seed))
    settings = {**SETTINGS, **VARIANTS[variant]}
    crops = {"NEW_SPLITS": True} if NEW_SPLITS else {"TRAIN_DIR": TRAIN_DIR, "VALID_DIR": VALID_DIR}
    remember(folder / "settings.json", settings | crops)
    weights, plots = folder / "weights", folder / "plots"
    if not (weights / "done").is_file():
        print(f"\n{variant}, seed {seed}: {settings}", flush=True)
        train_dir, valid_dir = folders_of(seed if NEW_SPLITS else None, settings.get("CLAHE") or 0.0)
        of_training = {name: value for name, value in settings.items() if name != "CLAHE"}
        run("train.py", {**of_training, "SEED": seed, "RESUME": (weights / "last.pt").is_file(), "TRAIN_DIR": train_dir,
                         "VALID_DIR": valid_dir, "WEIGHTS_DIR": str(weights), "PLOTS_DIR": str(plots)})
        (weights / "done").touch()
    best = classifier.load_checkpoint(weights / "best_weights.pt")["metrics"]
    result = {**dict.fromkeys(COLUMNS), "valid_loss": best["valid_loss"], "valid_accuracy": best["valid_accuracy"]}
    if TEST_DIR:
        test_once(weights / "best_weights.pt", plots, folder / "tested.json")
        metrics = json.loads((plots / "test_metrics.json").read_text(encoding="utf-8"))
        result["test_accuracy"] = metrics["accuracy"]
        for kind in ("occlusion", "covered"):  # balanced accuracy, mean of five severities
            result[kind] = statistics.fmean(r["balanced_accuracy"] for r in metrics["robustness"] if r["kind"] == kind)
    return result


def remember(path, settings):
    """Write the constants of a run to `path`; ends the program if the folder has a run with other constants."""
    text = json.dumps(settings, sort_keys=True)
    before = path.read_text(encoding="utf-8") if path.is_file() else text
    if before != text:
        script.fail(f"{path.parent} has a run with other constants ({before}, not {text}): choose another name "
                    "for the variant, or another RUNS_DIR")
    write(path, text)


def test_once(weights, plots, path):
    """Run test.py, unless `path` says that it has tested this run with the same constants."""
    constants = {"TEST_DIR": TEST_DIR, "ROBUSTNESS_PHOTOS": ROBUSTNESS_PHOTOS}
    text = json.dumps(constants)
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    claim_file(path)
    write(path, "")  # until the new test is complete
    run("test.py", {**constants, "WEIGHTS": str(weights), "PLOTS_DIR": str(plots), "ROBUSTNESS": True})
    write(path, text)


def write(path, text):
    """Write a text file, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def show(rows):
    """Print a line per variant: means and standard deviations over its seeds."""
    width = max(len(name) for name in ("variant", *VARIANTS)) + 2
    print(f"\n{'variant':{width}}{'seeds':>5}" + "".join(f"{c:>20}" for c in COLUMNS))
    means = {}
    for name in VARIANTS:
        own = [r for r in rows if r["variant"] == name]
        line = f"{name:{width}}{len(own):>5}"
        for column in COLUMNS:
            values = [r[column] for r in own if r[column] is not None]
            cell = f"{statistics.fmean(values):.4f}" if values else ""
            if len(values) > 1:
                cell += f" +- {statistics.stdev(values):.4f}"
            line += f"{cell:>20}"
        means[name] = statistics.fmean(r["valid_loss"] for r in own)
        print(line)
    print(f"lowest validation loss: {min(means, key=means.get)}; occlusion (a square) and covered (a mask, sunglasses, "
          "a scarf, a hand): balanced accuracy, mean of five severities")


def are_settings(value):
    """Whether a value is a dict of constants by name."""
    return isinstance(value, dict) and all(isinstance(name, str) for name in value)


def are_variants(value):
    """Whether a value is a dict of at least one variant, each with its constants."""
    return bool(value) and are_settings(value) and all(map(are_settings, value.values()))


RULES = dict(VARIANTS=rules.Rule(are_variants, "constants of each variant by its name, as {'low': {'LR': 5e-4}}"),
             SEEDS=rules.sequence((int, 0, 2**63 - 1), "different whole numbers, as (0, 1, 2)", 1),
             SETTINGS=rules.Rule(are_settings, "constants of train.py, as {'EPOCHS': 6}"), TRAIN_DIR=str,
             VALID_DIR=str, TEST_DIR=rules.TEXT, ROBUSTNESS_PHOTOS=(int, 0, None), NEW_SPLITS=bool, RUNS_DIR=str)


def check_variants():
    """End with one line if this script cannot vary a constant in VARIANTS or SETTINGS."""
    known = {"CLAHE": processed.RULES["CLAHE"], **train.RULES}
    for name, constants in VARIANTS.items():
        if not re.fullmatch(r"[\w.+-]+( [\w.+-]+)*", name):
            script.fail(f"VARIANTS: {name!r} must be a name that a folder can have")
        for constant, value in {**SETTINGS, **constants}.items():
            if constant in OWN or constant not in known:
                script.fail(f"VARIANTS: {constant} is neither CLAHE nor a constant of train.py that this script can "
                            "vary")
            rule = rules.rule_of(known[constant])
            if not rules.keeps(value, rule):
                script.fail(f"VARIANTS: {constant}={value!r} of {name!r}: must be {rule.wanted}")
    if processed.CLAHE:
        script.fail(f"processed.py has CLAHE={processed.CLAHE}, so crops are equalised already: set it to 0.0, and run "
                    "'python processed.py' and 'python validation.py'")


def check_test():
    """End with one line, before any training, if TEST_DIR has no photos, without which test.py gives no accuracy."""
    hint = "put photos that training never saw into <class>/ folders there, or set TEST_DIR= for no test"
    places = itertools.chain.from_iterable(reading.class_folders(TEST_DIR, hint).values())
    if not any(videos.photos_and_clips(place)[0] for place in places):
        script.fail(f"TEST_DIR={TEST_DIR} has no photos: {hint}")


def main():
    rules.check(globals())
    check_variants()
    check_outputs(globals(), "RUNS_DIR")
    if TEST_DIR:
        check_test()
    table, columns = Path(RUNS_DIR, "results.csv"), ("variant", "seed", *COLUMNS)
    claim_table(table, columns)
    rows = [{"variant": name, "seed": seed, **one_run(name, seed)} for seed in SEEDS for name in VARIANTS]
    with atomic(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    show(rows)


if __name__ == "__main__":
    rules.override(globals())
    script.run(main)
