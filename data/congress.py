"""Downloads the official portraits of members of the US Congress, in the public domain, for users without photos.

    python data/congress.py

It fetches the list of members and one portrait each, one at a time, from the pages of the unitedstates project, into
data/raw/{man,woman} and, for one member in ten, data/test/{man,woman}. After a stop, or run again, it fetches only what
is missing. Each person appears once; all are adults who dress alike, so the weights will do worse on other people.
"""

import importing  # isort: skip  # first, since it imports terminal/script.py

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from pathlib import Path

from tqdm import tqdm

from faces import people
from terminal import rules, script
from terminal.files import atomic
from terminal.places import PLACES
from terminal.records import claim, remove_ours, written

# ------------------------------------------------------------------------------------------------
LABELS_URL = "https://unitedstates.github.io/congress-legislators/legislators-current.json"  # or -historical.json
PORTRAITS_URL = "https://unitedstates.github.io/images/congress/225x275"  # or original, several times larger
RAW_DIR = PLACES["RAW_DIR"]
TEST_DIR = PLACES["TEST_DIR"]
PEOPLE = people.PEOPLE
TEST_RATIO = 0.1  # share of the members for the test, 0..1
DELAY = 0.2  # seconds between two requests
RETRIES = 4  # after a failure; the pause doubles each time
TIMEOUT = 30.0  # seconds
# ------------------------------------------------------------------------------------------------

USER_AGENT = "gender-cnn/1.0 (a script for students; one request at a time)"
GENDERS = {"M": "man", "F": "woman"}


def fetch(url):
    """The bytes at `url`, or None if there is nothing (404). Retries if the server or the connection fails."""
    pause = max(1.0, DELAY) if DELAY else 0.0
    for attempt in range(RETRIES + 1):
        try:
            time.sleep(DELAY)
            request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT})
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (404, 410):
                return None
            reason, final = f"HTTP {error.code}", error.code < 500 and error.code not in (408, 429)
        except (OSError, http.client.HTTPException) as error:
            reason, final = getattr(error, "reason", None) or error, False
        if final or attempt == RETRIES:
            script.fail(f"{url} cannot be fetched ({reason}): try again later; it continues where it stopped")
        time.sleep(pause * 2 ** attempt)


def read_members():
    """The list at LABELS_URL: ({bioguide, a member's identifier: class}, bioguides of malformed members). Ends the
    program if it is not a list of members."""
    try:
        members = list(json.loads(fetch(LABELS_URL) or ""))
    except (ValueError, TypeError):  # not JSON, or a single value
        members = []
    class_of, malformed = {}, []
    for member in members:
        bioguide, gender = text_in(member, "id", "bioguide"), text_in(member, "bio", "gender")
        if re.fullmatch(r"[A-Z]\d{6}", bioguide) and gender in GENDERS:
            class_of[bioguide] = GENDERS[gender]
        else:
            malformed.append(bioguide or "no bioguide")
    if not class_of:
        script.fail(f"{LABELS_URL} is not a list of members: set LABELS_URL to the new address of "
                    "legislators-current.json")
    return class_of, malformed


def text_in(member, part, name):
    """member[part][name], or "" if that is missing or not a text."""
    try:
        value = member[part][name]
    except (TypeError, KeyError):
        return ""
    return value if isinstance(value, str) else ""


def folder_for(bioguide, inner):
    """RAW_DIR or TEST_DIR, where the portrait `inner` ("class/name") of a member belongs. A portrait of ours that is in
    the other folder, since TEST_RATIO was different, is moved; if it is not ours, it stays, and its folder is returned.
    """
    folder, other = (TEST_DIR, RAW_DIR) if importing.in_test(bioguide, TEST_RATIO) else (RAW_DIR, TEST_DIR)
    if not Path(other, inner).is_file():
        return folder
    if inner not in written(other):
        return other
    if Path(folder, inner).exists():
        remove_ours(other, [inner])
    else:
        importing.move([inner], other, folder)
    return folder


RULES = dict(LABELS_URL=str, PORTRAITS_URL=str, RAW_DIR=str, TEST_DIR=str, PEOPLE=str, TEST_RATIO=(float, 0, 1),
             DELAY=(float, 0, 3600), RETRIES=(int, 0, 20), TIMEOUT=(float, 0.1, 3600))


def main():
    rules.check(globals())
    importing.check_targets(globals(), GENDERS.values())
    class_of, malformed = read_members()
    skipped = defaultdict(list, {"malformed members": malformed})
    new, total = 0, Counter()
    for bioguide, class_name in tqdm(class_of.items(), unit="portrait", smoothing=0):
        inner = f"{class_name}/congress-{bioguide}.jpg"
        folder = folder_for(bioguide, inner)
        path = Path(folder, inner)
        if not path.is_file():
            data = fetch(f"{PORTRAITS_URL}/{bioguide}.jpg")
            if data is None:
                skipped["members without a portrait"].append(bioguide)
                continue
            if not data.startswith(b"\xff\xd8"):
                skipped["portraits that are no JPEG"].append(bioguide)
                continue
            claim(folder, [inner])
            with atomic(path) as temporary:
                temporary.write_bytes(data)
            new += 1
        total[folder, class_name] += 1
    importing.print_skipped(skipped)
    people.write(PEOPLE, [(f"congress-{bioguide}.jpg", "congress", bioguide, "", "") for bioguide in class_of])
    importing.print_counts((RAW_DIR, TEST_DIR), total, new)


if __name__ == "__main__":
    rules.override(globals())
    script.run(main)
