"""Display settings that keys change, for clips and photos alike. Nothing to run."""

import dataclasses

from live import overlay, window, writing
from terminal.names import UNSURE

# Keys and their text in the help. A key does the same in a clip and on a photo, with Caps Lock too.
SWITCHES = {"h": ("help", "help"), "c": ("counts", "faces so far, by class"), "g": ("heat", "Grad-CAM"),
            "b": ("blur", "blur faces"), "m": ("mirror", "mirror")}  # key -> (field of Controls, text)
HELP = (*(f"{key}: {text}" for key, (_, text) in SWITCHES.items()), "s: snapshot", "q, Esc: quit")
CLIP_HELP = overlay.BETWEEN.join((*HELP, "space: pause", "r: record"))
NEXT, BACK = (" ", "right", "down", "page down"), ("left", "up", "page up")
PHOTO_HELP = overlay.BETWEEN.join((*HELP, "space, arrows: next photo and back"))


@dataclasses.dataclass
class Controls:
    """What is shown, and how: the constants of realtime.py at the start, then as keys change them."""

    mirror: bool = False
    blur: bool = False
    labels: dict = dataclasses.field(default_factory=dict)  # {class, or "unsure": text on the screen}
    help: bool = False
    heat: bool = False
    counts: bool = False
    pause: bool = False
    quit: bool = False

    def apply(self, key, picture):
        """Apply a key, named as by window.name_of(); `picture`: for a snapshot, or None. Returns the key if it means
        nothing here, else "".
        """
        if key in window.QUIT:
            self.quit = True
        elif key in SWITCHES:
            field, _ = SWITCHES[key]
            setattr(self, field, not getattr(self, field))
        elif key == "s" and picture is not None:
            writing.snapshot(picture)
        else:
            return key
        return ""

    def text_of(self, label, confidence, classes):
        """The text beside a box: 'woman 93%', 'unsure' if `label` (index of a class) is None, or "" if `confidence` is
        None, since the face is not classified yet.
        """
        if confidence is None:
            return ""
        if label is None:
            return self.labels.get(UNSURE, UNSURE)
        return f"{self.labels.get(classes[label], classes[label])} {confidence:.0%}"

    def draw(self, frame, faces, boxes, classifier):
        """A new picture of a BGR frame with its faces, list of tracks.LabelledFace. `boxes`: blurred with the key b;
        `classifier`: None while it loads.
        """
        classes, margin = (classifier.classes, classifier.margin) if classifier else ((), 0.0)
        frame = overlay.blur(frame, boxes) if self.blur else frame
        drawn = [(face.box, self.text_of(face.label, face.confidence, classes), face.label,
                  face.heat if self.heat else None, face.roll) for face in faces]
        return overlay.draw(frame, drawn, self.mirror, margin)

    def counted(self, results, classes):
        """'7 man, 4 woman, 1 unsure', in the texts of LABELS."""
        return results.text(classes, self.labels)
