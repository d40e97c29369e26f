"""Expectations: what was seen with nova-compute, kept in expected/SCENARIO.json, and the comparison with it."""
import difflib
import json
import os
import re

from facts import apply, changes, differences

HERE = os.path.dirname(os.path.abspath(__file__))
# The scenario that the first step and the first notifications of every other are told as changes of.
BASE = "create"


def path_of(name):
    return os.path.join(HERE, "expected", f"{name}.json")


def is_recorded(name):
    return os.path.exists(path_of(name))


class Last:
    """The last notification of each kind, which the next of its kind is told as changes of."""

    def __init__(self, base):
        self.kinds = dict(base)

    def before(self, entry):
        kinds = self.kinds
        return kinds.get(entry["object"]) or kinds.get(entry["event"].endswith("instance.update")) or {}

    def keep(self, entry, facts):
        self.kinds[entry["object"]] = self.kinds[entry["event"].endswith("instance.update")] = facts


def entry_of(facts):
    return {"event": facts["event"], "object": facts.get("payload.object", "unversioned")}


def tell(steps, heard, base):
    """What an expectation file holds: every step, and every notification, as changes of one before. A step that isn't about
    the servers stands alone."""
    before = base["steps"]
    told = {"steps": [], "notifications": {}}
    for step, facts, alone in steps:
        if alone:
            told["steps"].append({"step": step, "facts": facts})
            continue
        told["steps"].append({"step": step, **changes(before, facts)})
        before = facts
    for form, ones in heard.items():
        last = Last(base[form])
        told["notifications"][form] = []
        for facts in ones:
            entry = entry_of(facts)
            told["notifications"][form].append({**entry, **changes(last.before(entry), facts)})
            last.keep(entry, facts)
    return told


def untell(told, base):
    """The other way: the facts of each step and of each notification."""
    steps, heard, before = [], {}, base["steps"]
    for one in told["steps"]:
        if "facts" in one:
            steps.append((one["step"], one["facts"]))
            continue
        before = apply(before, one)
        steps.append((one["step"], before))
    for form, ones in told["notifications"].items():
        heard[form], last = [], Last(base[form])
        for one in ones:
            facts = {**apply(last.before(one), one), "event": one["event"]}
            last.keep(one, facts)
            heard[form].append(facts)
    return steps, heard


NOTHING = {"steps": {}, "notifications": {}, "versioned_notifications": {}}


def base_of(name):
    if name == BASE or not os.path.exists(path_of(BASE)):
        return NOTHING
    steps, heard = untell(read(BASE), NOTHING)
    base = {"steps": steps[0][1]}
    for form, ones in heard.items():
        last = Last({})
        for facts in ones:
            last.keep(entry_of(facts), facts)
        base[form] = last.kinds
    return base


def read(name):
    with open(path_of(name)) as file:
        return json.load(file)


def record(name, steps, heard):
    os.makedirs(os.path.dirname(path_of(name)), exist_ok=True)
    with open(path_of(name), "w") as file:
        json.dump(tell(steps, heard, base_of(name)), file, indent=1, ensure_ascii=False)
        file.write("\n")


class Ignored:
    """ignored.json: patterns of paths that aren't compared, each with the reason."""

    def __init__(self):
        with open(os.path.join(HERE, "ignored.json")) as file:
            self.rules = [(self.glob(rule.get("scenario", "*")), self.glob(rule.get("step", "*")), self.glob(rule["path"]))
                          for rule in json.load(file)]

    @staticmethod
    def glob(pattern):
        return re.compile(".*".join(re.escape(part) for part in pattern.split("*")))

    def strip(self, name, step, facts):
        paths = [path for scenario, at, path in self.rules if scenario.fullmatch(name) and at.fullmatch(step)]
        return {path: value for path, value in facts.items() if not any(one.fullmatch(path) for one in paths)}


def compare(name, steps, heard):
    """Lines that say what differs from the expectation; none when nothing does."""
    if not is_recorded(name):
        return ["nothing is recorded for this scenario"]
    ignored = Ignored()
    wanted_steps, wanted_heard = untell(read(name), base_of(name))
    lines = _order("steps", [step for step, _ in wanted_steps], [step for step, *_ in steps])
    for (step, wanted), (_, found, _) in zip(wanted_steps, steps):
        lines += [f"{step}: {line}" for line in differences(ignored.strip(name, step, wanted), ignored.strip(name, step, found))]
    for form, ones in wanted_heard.items():
        wrong = _order(form, [facts["event"] for facts in ones], [facts["event"] for facts in heard[form]])
        lines += wrong
        for number, (wanted, found) in enumerate(zip(ones, heard[form])):
            if wrong:
                break
            lines += [f"{form}[{number}] {wanted['event']}: {line}" for line in
                      differences(ignored.strip(name, form, wanted), ignored.strip(name, form, found))]
    return lines


def _order(what, wanted, found):
    if wanted == found:
        return []
    return [f"{what}: {line}" for line in difflib.ndiff(wanted, found) if line[:2] != "? "]
