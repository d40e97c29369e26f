"""What the real oslo.config makes of configuration files.

Reads JSON from standard input: {"options": [...], "cases": [[text, ...], ...]}, each case being
files in order. Writes, for each case, either null (the files don't parse) or a list with each
option's value, where an error is {"error": true}.
"""

import json
import os
import sys
import tempfile

from oslo_config import cfg, types

KINDS = {
    "text": lambda o: types.String(),
    "choice": lambda o: types.String(choices=o["choices"]),
    "integer": lambda o: types.Integer(min=o["min"], max=o["max"]),
    "integer_choice": lambda o: types.Integer(choices=o["choices"]),
    "float": lambda o: types.Float(min=o["min"], max=o["max"]),
    "boolean": lambda o: types.Boolean(),
    "list": lambda o: types.List(),
    "host_address": lambda o: types.HostAddress(),
    "host_domain": lambda o: types.HostDomain(),
    "uri": lambda o: types.URI(),
}


def declare(option):
    formerly = [cfg.DeprecatedOpt(name, group=group) for group, name in option["formerly"]]
    keywords = {"deprecated_opts": formerly, "default": option["default"]}
    if option["multiple"]:
        return cfg.MultiStrOpt(option["name"], **keywords)
    return cfg.Opt(option["name"], type=KINDS[option["kind"]](option), **keywords)


def group_of(option):
    return None if option["section"] == "DEFAULT" else option["section"]


def value(conf, option):
    try:
        group = group_of(option)
        return conf[option["name"]] if group is None else conf[group][option["name"]]
    except Exception:  # oslo.config raises a RecursionError for a circle, among others
        return {"error": True}


def answer(options, texts, directory):
    conf = cfg.ConfigOpts()
    for option in options:
        conf.register_opt(declare(option), group=group_of(option))
    arguments = []
    for index, text in enumerate(texts):
        path = os.path.join(directory, "%d.conf" % index)
        with open(path, "w", encoding="utf-8", newline="") as f:
            f.write(text)
        arguments += ["--config-file", path]
    try:
        conf(arguments, project="test", default_config_files=[], default_config_dirs=[])
    except cfg.ConfigFileParseError:
        return None
    return [value(conf, option) for option in options]


def main():
    question = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as directory:
        answers = [answer(question["options"], texts, directory) for texts in question["cases"]]
    json.dump(answers, sys.stdout)


main()
