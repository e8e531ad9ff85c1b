"""test.py from photos to files, on drawn faces, with weights trained for seconds; scikit-learn is the reference."""

import contextlib
import csv
import io
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics as reference

import dataset
import drawn
import model
import running
import strangers
import test as subject
from faces import cropping, detectors, reading
from judge import corruptions, overlap, report
from learn import classifier, runs
from photos import save
from processed import DETECTOR
from terminal import files, records, script

CLASSES = ["beard", "hat"]
PER_CLASS = 10


def weights(path, net, epoch, classes=CLASSES, margin=0.2):
    """A weights file of the paper's network."""
    runs.save_weights(path, strangers.facts(
        net, model="paper", classes=classes, image_size=224, mean=dataset.MEAN, std=dataset.STD, margin=margin,
        temperature=1.3, epoch=epoch))


def normalised(crops):
    """The evaluation transform written out: float32 [N, 3, 224, 224]."""
    x = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """photos/ (20 drawn faces, two photos without a face, one file that is no photo) and w/ (three weights)."""
    root = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    net = model.build("paper", 2)
    pictures = [(drawn.draw_face(1000 + i, name), c) for c, name in enumerate(CLASSES) for i in range(12)]
    boxes = [detectors.get("haar").main_face(p).box for p, _ in pictures]
    crops = [cropping.crop_face(p, b, 0.2)
             for (p, _), b in zip(pictures, boxes, strict=True) if b is not None]
    x = normalised(crops)
    y = torch.tensor([c for (_, c), b in zip(pictures, boxes, strict=True) if b is not None])
    weights(root / "w/best_weights_2.pt", net, 2)
    optimizer = torch.optim.Adam(net.parameters(), 5e-4)
    for step in range(12):
        rows = torch.arange(len(y))[step % 2::2]
        loss = torch.nn.functional.cross_entropy(net(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weights(root / "w/best_weights_10.pt", net, 10)
    with torch.no_grad():
        net.classifier[-1].bias += torch.tensor([5.0, 0.0])  # calls nearly everything a beard
    weights(root / "w/best_weights_9.pt", net, 9, margin=0.4)
    for name in CLASSES:
        for i in range(PER_CLASS):
            save(root / "photos" / name / f"{name}_{i}.png", drawn.draw_face(7 + 31 * i, name))
    (root / "photos/beard/beard_0.png").rename(root / "photos/beard/señor $ 早.png")
    for i in range(2):
        save(root / f"photos/beard/empty_{i}.png", np.full((200, 200, 3), 120 + i, np.uint8))
    (root / "photos/hat/broken.jpg").write_bytes(b"no photo")
    return root


def run(monkeypatch, world, tmp_path, **constants):
    """test.main() with constants set as a command line would. Returns (metrics, predictions), read from the files."""
    settings = {"TEST_DIR": str(world / "photos"), "WEIGHTS": str(world / "w/best_weights_10.pt"),
                "PLOTS_DIR": str(tmp_path / "plots"), "PEOPLE": str(tmp_path / "none.csv")} | constants
    running.settle(subject, monkeypatch, *(f"{name}={value}" for name, value in settings.items()))
    subject.main()
    with open(tmp_path / "plots/predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return json.loads((tmp_path / "plots/test_metrics.json").read_text(encoding="utf-8")), rows


@pytest.fixture(scope="module")
def plain(world, tmp_path_factory):
    """What test.py makes of the photos: (metrics, predictions, the folder that holds plots/, what it printed)."""
    folder = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        result, rows = run(patch, world, folder)
    return result, rows, folder, out.getvalue()


@pytest.fixture
def no_pictures(monkeypatch):
    """Pictures are drawn elsewhere, and slow."""
    monkeypatch.setattr(report, "save", lambda *_, **__: None)


def with_face(rows):
    """The rows of the photos in which a face was found."""
    return [row for row in rows if row["status"] == "ok"]


def test_every_photo_is_counted_once(plain):
    result, rows, _, shown = plain
    names = {status: [Path(row["file"]).name for row in rows if row["status"] == status]
             for status in ("ok", "no face", "unreadable")}
    assert len(rows) == 2 * PER_CLASS + 3
    assert (result["n"], result["no_face"], result["unreadable"]) == tuple(len(found) for found in names.values())
    assert names["unreadable"] == ["broken.jpg"] and {"empty_0.png", "empty_1.png"} <= set(names["no face"])
    assert result["n"] >= 2 * PER_CLASS - 2 and "señor $ 早.png" in names["ok"]
    assert f"{result['n']} faces, {result['no_face']} photos without a face, 1 unreadable" in shown


def test_an_answer_is_that_of_the_network_for_the_crop_of_the_face(world, plain):
    net, info = classifier.load_weights(world / "w/best_weights_10.pt")
    for row in with_face(plain[1])[::5]:
        picture = cv2.cvtColor(cv2.imdecode(np.fromfile(row["file"], np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        face = detectors.get(DETECTOR).main_face(picture)
        assert [int(row[k]) for k in ("x", "y", "width", "height")] == [round(v) for v in face.box]
        crop = cropping.crop_face(picture, face.box, 0.2, roll=face.roll)
        expected = strangers.plainly(net, info, [crop])[0][0]
        assert [float(row["p_beard"]), float(row["p_hat"])] == pytest.approx(expected, abs=2e-4)


def test_metrics_are_those_of_scikit_learn_for_the_answers(plain):
    result, rows, *_ = plain
    assert {"weights", "balanced_accuracy", "accuracy_ci", "precision", "recall", "f1", "ece", "classes"} <= set(result)
    truth = [CLASSES.index(row["class"]) for row in with_face(rows)]
    predicted = [CLASSES.index(row["predicted"]) for row in with_face(rows)]
    scores = np.array([[float(row["p_beard"]), float(row["p_hat"])] for row in with_face(rows)])
    shares = scores / scores.sum(1, keepdims=True)  # the file rounds them
    assert (scores.argmax(1) == predicted).all()
    assert result["accuracy"] == pytest.approx(reference.accuracy_score(truth, predicted), abs=1e-5)
    assert result["accuracy"] > 0.7, "the weights of this test have learnt too little to test with"
    assert result["confusion"] == reference.confusion_matrix(truth, predicted, labels=[0, 1]).tolist()
    assert result["auc"] == pytest.approx(reference.roc_auc_score(truth, scores[:, 1]), abs=1e-5)
    assert result["loss"] == pytest.approx(reference.log_loss(truth, shares), abs=1e-4)
    with_missed = np.trace(result["confusion"]) / (result["n"] + result["no_face"])
    assert result["accuracy_with_missed"] == pytest.approx(with_missed, abs=1e-5)
    sure = scores.max(1) >= 0.7
    assert result["coverage"]["at_threshold"]["coverage"] == pytest.approx(sure.mean(), abs=1e-5)


def test_every_plot_is_drawn_and_nothing_temporary_is_left(plain):
    folder = plain[2] / "plots"
    for name in ("confusion_matrix", "roc", "reliability", "errors"):
        picture = cv2.imread(str(folder / f"{name}.png"))
        assert picture is not None and picture.std() > 1, name
    assert not list(folder.glob(".tmp*"))


def test_pattern_compares_epochs_and_details_the_lowest_loss(world, tmp_path, monkeypatch, capsys, no_pictures):
    looked = []
    kind = type(detectors.get(DETECTOR))
    monkeypatch.setattr(kind, "main_face", lambda *args, find=kind.main_face: looked.append(1) or find(*args))
    result, _ = run(monkeypatch, world, tmp_path, WEIGHTS=str(world / "w/best_weights_*.pt"))
    wrong = result["n"] - np.trace(result["confusion"])
    # Faces are found once for all three files, and again only for the mistakes in errors.png.
    assert len(looked) == 2 * PER_CLASS + 2 + wrong
    assert [e["epoch"] for e in result["epochs"]] == [2, 9, 10]
    losses = [e["loss"] for e in result["epochs"]]
    best = int(np.argmin(losses))
    assert Path(result["weights"]).name == f"best_weights_{[2, 9, 10][best]}.pt" and result["loss"] == losses[best]
    shown = capsys.readouterr().out
    assert shown.index("best_weights_2.pt") < shown.index("best_weights_9.pt") < shown.index("best_weights_10.pt")
    assert "lowest loss: " in shown
    # Each file is cut with its own margin: alone, the one of the other margin gives the same numbers.
    alone, _ = run(monkeypatch, world, tmp_path, WEIGHTS=str(world / "w/best_weights_9.pt"))
    assert alone["loss"] == pytest.approx(losses[1], abs=1e-4)


def test_crops_need_no_face_finding(world, plain, tmp_path, monkeypatch, no_pictures):
    result, rows, *_ = plain
    for row in rows:
        if row["status"] == "ok":
            image = reading.read_photo(Path(row["file"]))
            face = detectors.get(DETECTOR).main_face(image)
            crop = cropping.crop_face(image, face.box, 0.2, roll=face.roll)
            cropping.write_crop(tmp_path / "crops" / row["class"] / f"{Path(row['file']).stem}.jpg", crop)
    monkeypatch.setattr(detectors, "get", lambda *_: pytest.fail("looked for a face in a crop"))
    again, crops = run(monkeypatch, world, tmp_path, TEST_DIR=str(tmp_path / "crops"), CROPPED=True)
    assert again["n"] == result["n"] and again["no_face"] == 0
    assert again["loss"] == pytest.approx(result["loss"], abs=0.05)
    assert {r["x"] for r in crops} == {""}


def test_processes_see_what_one_process_sees(world, monkeypatch):
    paths = reading.list_photos(world / "photos")
    alone = list(subject.prepare_all(paths, [(0.1, 0.0), (0.3, 2.0)]))
    monkeypatch.setattr(subject, "IN_PROCESS", 0)
    monkeypatch.setattr(subject, "WORKERS", 2)
    together = list(subject.prepare_all(paths, [(0.1, 0.0), (0.3, 2.0)]))
    assert [a[:3] for a in alone] == [t[:3] for t in together]
    for a, t in zip(alone, together, strict=True):
        assert len(a[3]) == len(t[3]) and all(np.array_equal(p, q) for p, q in zip(a[3], t[3], strict=True))
    assert len(alone[0][3]) == 2 and not np.array_equal(*alone[0][3])


def test_the_faces_of_children_are_unsure_and_counted_as_they_are(world, plain, tmp_path, monkeypatch, no_pictures):
    """Weights that tell ages, and take everyone for a child or for grown up: the answers stay, the sure ones do not."""
    plain = plain[0]
    for age, name in ((5, "child"), (40, "grown")):
        checkpoint = classifier.load_checkpoint(world / "w/best_weights_10.pt")
        weight, bias = ("classifier.3.weight", "classifier.3.bias")
        state = checkpoint["state"]
        state[weight] = torch.cat([state[weight], torch.zeros(2, state[weight].shape[1])])
        state[bias] = torch.cat([state[bias], torch.tensor([9.0, 0.0])])
        runs.save_weights(tmp_path / f"{name}.pt", {**checkpoint, "ages": [age, 60], "state": state})
    result, rows = run(monkeypatch, world, tmp_path, WEIGHTS=str(tmp_path / "child.pt"))
    assert result["accuracy"] == plain["accuracy"] and result["loss"] == pytest.approx(plain["loss"], abs=1e-4)
    assert result["coverage"]["at_threshold"]["coverage"] == 0
    assert {row["sure"] for row in rows if row["status"] == "ok"} == {"0"}
    result, rows = run(monkeypatch, world, tmp_path, WEIGHTS=str(tmp_path / "grown.pt"))
    assert result["coverage"]["at_threshold"] == plain["coverage"]["at_threshold"]
    sure = [row for row in rows if row["sure"] == "1"]
    assert len(sure) / result["n"] == pytest.approx(plain["coverage"]["at_threshold"]["coverage"], abs=1e-5)
    assert all(max(float(row["p_beard"]), float(row["p_hat"])) >= 0.7 for row in sure)


def test_the_accuracy_of_a_group_is_that_of_its_photos(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "SMALLEST_GROUP", 3)
    lines = [f"{p.name},{5 if i % 2 else 30},{'Asian' if i % 3 else 'White'}"
             for i, p in enumerate(reading.list_photos(world / "photos"))]
    (tmp_path / "people.csv").write_text("file,age,ethnicity\n" + "\n".join(lines), encoding="utf-8")
    result, rows = run(monkeypatch, world, tmp_path, PEOPLE=str(tmp_path / "people.csv"))
    groups = {kind: {r["group"]: r for r in found} for kind, found in result["groups"].items() if found
              and isinstance(found, list)}
    known = {line.split(",")[0]: line.split(",")[1:] for line in lines}
    grown = [r for r in rows if r["status"] == "ok" and known[Path(r["file"]).name][0] == "30"]
    share = np.mean([r["predicted"] == r["class"] for r in grown])
    assert groups["age"]["30-39"]["n"] == len(grown) == result["groups"]["age_15_and_over"]["n"]
    assert groups["age"]["30-39"]["accuracy"] == pytest.approx(share, abs=1e-5)
    assert sum(r["n"] for r in groups["age_ethnicity_class"].values()) == result["n"]
    assert sum(r["no_face"] for r in groups["ethnicity"].values()) == result["no_face"]
    accuracies = [r["accuracy"] for r in result["groups"]["ethnicity_class"]]
    assert accuracies == sorted(accuracies)
    assert (tmp_path / "plots/groups.png").is_file()
    assert "age 15 and over" in capsys.readouterr().out


def test_photos_of_one_person_or_take_are_one_draw(world, plain, tmp_path, monkeypatch, capsys, no_pictures):
    """All photos are of two takes, as those of data/webcam.py: the intervals are as wide as those of two photos."""
    lines = [f"{p.name},webcam,webcam take {i % 2}" for i, p in enumerate(reading.list_photos(world / "photos"))]
    (tmp_path / "people.csv").write_text("file,source,person\n" + "\n".join(lines), encoding="utf-8")
    result, _ = run(monkeypatch, world, tmp_path, PEOPLE=str(tmp_path / "people.csv"))
    assert result["clusters"] == 2 and plain[0]["clusters"] == result["n"] == 20
    assert result["accuracy"] == plain[0]["accuracy"]
    for key in ("accuracy_ci", "balanced_accuracy_ci", "balanced_accuracy_with_missed_ci"):
        (low, high), (narrow_low, narrow_high) = result[key], plain[0][key]
        assert high - low > 0.6 > narrow_high - narrow_low, key
    assert "people or takes                  2   (the intervals count these" in capsys.readouterr().out
    assert "people or takes" not in plain[3]


def test_groups_of_other_photos_are_no_report(world, tmp_path, monkeypatch, capsys, no_pictures):
    (tmp_path / "people.csv").write_text("file,age,ethnicity\nother.jpg,30,White\n", encoding="utf-8")
    result, _ = run(monkeypatch, world, tmp_path, PEOPLE=str(tmp_path / "people.csv"))
    assert result["groups"] is None and not (tmp_path / "plots/groups.png").exists()
    assert "has neither ages nor ethnicities of these photos" in capsys.readouterr().out
    (tmp_path / "people.csv").write_text("name,age\nother.jpg,30\n", encoding="utf-8")
    with pytest.raises(script.Problem, match="has no column"):
        run(monkeypatch, world, tmp_path, PEOPLE=str(tmp_path / "people.csv"))


def test_plots_of_an_earlier_run_do_not_stay_beside_other_metrics(world, tmp_path, monkeypatch, no_pictures):
    names = ["groups.png", "robustness.png", "roc.pdf", "robustness.pdf"]
    records.claim(tmp_path / "plots", names)
    for name in (*names, "mine.png"):
        (tmp_path / "plots" / name).write_bytes(b"old")
    run(monkeypatch, world, tmp_path)
    assert not any((tmp_path / "plots" / name).exists() for name in names)
    assert (tmp_path / "plots" / "mine.png").read_bytes() == b"old"


def test_robustness(world, tmp_path, monkeypatch):
    result, _ = run(monkeypatch, world, tmp_path, ROBUSTNESS=True, ROBUSTNESS_PHOTOS=2)
    rows = result["robustness"]
    assert len(rows) == 1 + 9 * 5 and {r["n"] for r in rows} == {2}
    assert {r["severity"] for r in rows if r["kind"] == "JPEG"} == {1, 2, 3, 4, 5}
    assert (tmp_path / "plots/robustness.png").is_file()


@pytest.mark.parametrize("kind", corruptions.KINDS)
def test_corruptions_grow_with_severity_and_repeat(kind):
    crop = cv2.resize(drawn.draw_face(3, "beard"), (224, 224))
    harm = []
    for severity in range(1, 6):
        copies = [corruptions.corrupted(crop, kind, severity, seed, 0.2) for seed in range(12)]
        assert all(c.shape == crop.shape and c.dtype == np.uint8 for c in copies)
        assert np.array_equal(copies[3], corruptions.corrupted(crop, kind, severity, 3, 0.2))
        harm.append(np.mean([np.abs(c.astype(int) - crop).mean() for c in copies]))
    assert harm[0] > 0.3 and all(np.diff(harm) > 0), harm


def test_one_class_only(world, tmp_path, monkeypatch, capsys):
    shutil.copytree(world / "photos/hat", tmp_path / "photos/hat")
    result, _ = run(monkeypatch, world, tmp_path, TEST_DIR=str(tmp_path / "photos"))
    assert result["auc"] is None and result["recall"][0] is None and result["n"] >= PER_CLASS - 1
    shown = capsys.readouterr().out
    assert "no photos of beard" in shown and "undefined: photos of one class only" in shown


def test_no_face_at_all_still_says_why(world, tmp_path, monkeypatch):
    save(tmp_path / "photos/hat/gray.png", np.full((100, 100, 3), 99, np.uint8))
    with pytest.raises((SystemExit, script.Problem), match="no face in any of the 1 photos"):
        run(monkeypatch, world, tmp_path, TEST_DIR=str(tmp_path / "photos"))
    assert "no face" in (tmp_path / "plots/predictions.csv").read_text(encoding="utf-8")


def test_without_a_face_no_metrics_of_an_earlier_run_stay(world, tmp_path, monkeypatch):
    records.claim(tmp_path / "plots", ["test_metrics.json", "roc.png"])
    for name in ("test_metrics.json", "roc.png"):
        (tmp_path / "plots" / name).write_text('{"n": 20}')
    save(tmp_path / "photos/hat/gray.png", np.full((100, 100, 3), 99, np.uint8))
    with pytest.raises(SystemExit, match="no face in any of the 1 photos"):
        run(monkeypatch, world, tmp_path, TEST_DIR=str(tmp_path / "photos"))
    result = json.loads((tmp_path / "plots/test_metrics.json").read_text(encoding="utf-8"))
    assert (result["n"], result["no_face"], result["unreadable"]) == (0, 1, 0)
    assert not (tmp_path / "plots/roc.png").exists()


@pytest.mark.parametrize(("make", "constants", "message"), [
    (["photos/hats/"], {}, r"class folders beard, hats, but .*best_weights_10.pt has beard, hat: rename hats"),
    ([], {"TEST_DIR": "nowhere"}, "there is no folder"),
    (["photos/beard/"], {"WEIGHTS": "nothing_*.pt"}, "no weights match .*train.py"),
    (["photos/hat/"], {}, "has no photos"),
])
def test_one_line_errors(world, tmp_path, monkeypatch, make, constants, message):
    for folder in ["photos/beard/", *make]:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    with pytest.raises((SystemExit, script.Problem), match=message) as error:
        run(monkeypatch, world, tmp_path, **{"TEST_DIR": str(tmp_path / "photos")} | constants)
    assert "\n" not in str(error.value)


def test_weights_of_other_classes_are_not_compared(world, tmp_path, monkeypatch):
    shutil.copy(world / "w/best_weights_2.pt", tmp_path / "a.pt")
    weights(tmp_path / "b.pt", model.build("paper", 2), 1, classes=["man", "woman"])
    with pytest.raises((SystemExit, script.Problem), match="compare weights of the same classes only"):
        run(monkeypatch, world, tmp_path, WEIGHTS=str(tmp_path / "?.pt"))


def test_a_plots_folder_with_files_of_others_is_refused_before_any_work(world, tmp_path, monkeypatch):
    monkeypatch.setattr(detectors, "get", lambda *_: pytest.fail("looked for faces before"))
    for name in subject.written():
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(script.Problem, match=f"{name} already exists"):
            run(monkeypatch, world, tmp_path, PLOTS_DIR=str(folder))
        assert [(p.name, p.read_text()) for p in folder.iterdir()] == [(name, "mine")]
    with pytest.raises(script.Problem, match="is a file"):
        run(monkeypatch, world, tmp_path, PLOTS_DIR=str(folder / name))


def test_photos_of_training_and_of_both_classes_are_named(plain, tmp_path, capsys):
    """The same bytes, and the same picture in another size and format."""
    photos, raw = tmp_path / "photos", tmp_path / "raw" / "other"
    for name in CLASSES:
        for i in range(1, 6):
            save(photos / name / f"{i}.png", drawn.draw_face(7 + 31 * i, name))
    raw.mkdir(parents=True)
    shutil.copy(photos / "hat/2.png", raw / "same.png")
    image = Image.open(photos / "hat/3.png")
    image.resize((image.width * 2, image.height * 2)).save(raw / "larger.jpg", quality=80)
    shutil.copy(photos / "beard/4.png", photos / "hat/beard.png")
    test = [(p, p.parent.name) for p in sorted(photos.glob("*/*"))]
    found = overlap.find_copies(test, sorted(raw.iterdir()), [False] * len(test))
    assert {Path(p).name for p in found["in_training"]} == {"2.png", "3.png"}
    assert {p.split("photos/")[1] for p in found["in_two_classes"]} == {"hat/beard.png", "beard/4.png"}
    assert "2 of 11 photos, such as " in capsys.readouterr().out
    assert plain[0]["copies"] == {"in_training": [], "in_two_classes": []}
    takes = overlap.find_copies(test, sorted(raw.iterdir()), [True] * len(test))
    assert takes == {"in_training": found["in_training"], "in_two_classes": []}, "one person looks alike in two classes"


@running.WINDOWS
def test_a_table_that_another_process_holds_open_is_one_line_that_names_it(world, monkeypatch, tmp_path):
    monkeypatch.setattr(files, "BUSY", 0.3)
    _, before = run(monkeypatch, world, tmp_path)
    with running.held_open(tmp_path / "plots" / "predictions.csv"):
        with pytest.raises(script.Problem, match=r"predictions\.csv is open in another program.*close it there"):
            run(monkeypatch, world, tmp_path)
    assert run(monkeypatch, world, tmp_path)[1] == before and not list((tmp_path / "plots").glob(".tmp*"))


@pytest.mark.parametrize("robustness", [True, False])
def test_photos_that_disappear_during_the_test_are_one_line(world, monkeypatch, tmp_path, no_pictures, robustness):
    """After they were classified, before they are cropped again for ROBUSTNESS, or for the mistakes."""
    shutil.copytree(world / "photos", tmp_path / "photos")
    monkeypatch.setattr(report, "show", lambda *_: shutil.rmtree(tmp_path / "photos"))
    with pytest.raises(script.Problem, match=r"\.png has changed during the test .*run the same command again"):
        run(monkeypatch, world, tmp_path, TEST_DIR=str(tmp_path / "photos"), ROBUSTNESS=robustness,
            WEIGHTS=str(world / "w/best_weights_9.pt"))
