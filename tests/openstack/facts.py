"""Facts: what was seen, as a flat map from a path to a value, with everything that differs from run to run replaced.

`server.status`, `ports[0].binding:vif_type`, `domain/devices/disk[0]/target@dev`: one fact a path, so that a comparison is
a comparison of maps, an expectation is a short list, and what isn't compared can be named by a pattern.
"""
import re
import xml.etree.ElementTree as ElementTree

UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

# In this order; the first ones hold what the later ones would take apart.
PATTERNS = [(re.compile(pattern), label) for pattern, label in (
    (rf"req-{UUID}", "<request>"),
    (r"Traceback \(most recent call last\):[\s\S]*", "<traceback>"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?", "<time>"),
    (r"\bfa:16:3e(:[0-9a-f]{2}){3}\b", "<mac>"),
    (r"\b10\.77\.0\.(?!0/24|1\b)\d+\b", "<address>"),
    (r"\binstance-[0-9a-f]{8}\b", "<domain>"),
    (r"\bi-[0-9a-f]{8}\b", "<ec2 id>"),
    (r"\btap[0-9a-f]{8}-[0-9a-f]{2}\b", "<tap>"),
    (r"\br-[0-9a-z]{8}\b", "<reservation>"),
    (r"\b[0-9a-f]{56}\b", "<host id>"),
    (r"\b[0-9a-f]{40}\b", "<sha1>"),
    (r"\bpc-(i440fx|q35)-[\w.+~-]+", r"pc-\1-<version>"),
    (UUID, "<uuid>"),
    (r"\b[0-9a-f]{32}\b", "<id>"),
)]


class Names:
    """Ids that mean something, and the names that they have in expectations."""

    def __init__(self):
        self.known = {}

    def learn(self, id_, name):
        self.known.setdefault(id_, f"<{name}>")
        self.known.setdefault(id_.replace("-", ""), f"<{name}>")

    def plain(self, value):
        """A value as it can be compared."""
        if not isinstance(value, str):
            return value
        if value in self.known:
            return self.known[value]
        for id_, name in self.known.items():
            if id_ in value:
                value = value.replace(id_, name)
        for pattern, label in PATTERNS:
            value = pattern.sub(label, value)
        return value


def flatten(value, names, path=""):
    """Facts of nested maps and lists. An empty one is a fact too."""
    if isinstance(value, dict) and value:
        facts = {}
        for key, one in value.items():
            key = names.plain(str(key))
            facts.update(flatten(one, names, f"{path}.{key}" if path else key))
        return facts
    if isinstance(value, list) and value:
        facts = {}
        for number, one in enumerate(value):
            facts.update(flatten(one, names, f"{path}[{number}]"))
        return facts
    return {path: names.plain(value)}


def flatten_xml(text, names):
    """Facts of a document: text at an element's path, attributes behind an @, siblings of one name numbered."""
    facts = {}

    def walk(element, path):
        # nova's metadata has a namespace of its own, whose prefix is a matter of taste.
        for key, value in element.attrib.items():
            facts[f"{path}@{key}"] = names.plain(value)
        words = (element.text or "").strip()
        if words or not (element.attrib or len(element)):
            facts[path] = names.plain(words)
        tags = [re.sub(r"^\{.*\}", "nova:", child.tag) for child in element]
        seen = {}
        for tag, child in zip(tags, element):
            number = seen[tag] = seen.get(tag, -1) + 1
            walk(child, f"{path}/{tag}" + (f"[{number}]" if tags.count(tag) > 1 else ""))
    root = ElementTree.fromstring(text)
    walk(root, root.tag)
    return facts


def same(one, other):
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def changes(before, after):
    """What turns one map of facts into the other, as an expectation keeps it: what is new or different, and what has gone,
    told by the beginning of its paths (`domain*`) where nothing that begins so is left."""
    changed = {path: after[path] for path in sorted(after) if path not in before or not same(before[path], after[path])}
    gone = sorted(shortest(path, after) for path in before if path not in after)
    return {**({"changed": changed} if changed else {}), **({"gone": sorted(set(gone))} if gone else {})}


def shortest(path, after):
    """The shortest beginning of a path, up to a separator, that no path of `after` has; the path itself when there is none."""
    for separator in re.finditer(r"[./\[@]", path):
        beginning = path[:separator.start()]
        if not any(one.startswith(beginning) for one in after):
            return f"{beginning}*"
    return path


def apply(before, change):
    whole = {path for path in change.get("gone", ()) if not path.endswith("*")}
    beginnings = tuple(path[:-1] for path in change.get("gone", ()) if path.endswith("*"))
    facts = {path: value for path, value in before.items() if path not in whole and not path.startswith(beginnings)}
    facts.update(change.get("changed", {}))
    return facts


def differences(expected, found):
    """Lines that say where two maps of facts differ."""
    lines = []
    for path in sorted({*expected, *found}):
        if path not in found:
            lines.append(f"{path}: {expected[path]!r} is expected, and isn't there")
        elif path not in expected:
            lines.append(f"{path}: {found[path]!r} isn't expected")
        elif not same(expected[path], found[path]):
            lines.append(f"{path}: {expected[path]!r} is expected, {found[path]!r} is there")
    return lines
