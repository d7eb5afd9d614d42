"""Cases of bad input by kind: files, YAML, values and keys."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from tests.faults.bad_input import BASE, Case, budget, file, height, line, path, space

NO_BUDGET = "name: x\nspace: {a: 1}\nbudget:\n"


def no_permission(folder: Path) -> None:
    (folder / "sweep.yaml").chmod(0)


def circle(folder: Path) -> None:
    (folder / "a.yaml").symlink_to("b.yaml")
    (folder / "b.yaml").symlink_to("a.yaml")


FILES: dict[str, list[Case]] = {
    # the file
    "a missing file": [
        path("swep.yaml", "swep.yaml  no such file; the folder holds sweep.yaml"),
        path("no/x.yaml", "no/x.yaml  no such file"),
        replace(path("sweep", "sweep  no such file. Did you mean: sweeper run sweep.yaml"), verbs=("run",)),
    ],
    "a folder": [path(".", ".  is a folder, not a file; it holds sweep.yaml"), path("/", "/  is a folder")],
    "a file that cannot be read": [
        Case("sweep.yaml  no permission to read it", prepare=no_permission, is_root=False),
        path("/proc/self/mem", "/proc/self/mem  cannot be read (Input/output error)"),
    ],
    "an empty file": [
        file("", "  is empty; the shortest sweep has name, budget and space"),
        file("\n \n", "  is empty"),
    ],
    "only comments": [
        file("# a\n", "  is empty"),
        file("---\n# a\n...\n", ":1:1  is empty; a sweep is a mapping"),
    ],
    "a binary file": [
        file(b"\x89PNG\r\n\x1a\n\0\0", ":3:1  holds a NUL byte: is it a binary file"),
        file(b"\x1f\x8b\x08\xff\xfe", ":1:2  is not UTF-8 (byte 0x8b)"),
        file(b"\x7fELF\x02", ":1:1  holds a control character (U+007F)"),
    ],
    "another encoding": [
        file(BASE.encode("utf-16"), "  is UTF-16; save it as UTF-8"),
        file(BASE.encode("utf-16-be"), ":1:1  holds a NUL byte"),
        file(b"name: caf\xe9\n", ":1:10  is not UTF-8 (byte 0xe9); if it is Latin-1: iconv"),
    ],
    "a NUL character": [
        file(b"name: a\0b\n", ":1:8  holds a NUL byte"),
        line('description: "a\\0b"', r"6:14  'a\x00b' has a character that databases cannot store"),
    ],
    "a large file": [
        file("#" * 1_000_001, "  is larger than 0.5 MB; is it a sweep?"),
        file(b"\xff" * 2_000_000, "  is larger than 0.5 MB"),
        line(f"enqueue: [{'{},' * 20_001}]", "6:59930  more than 20,000 values; is it a sweep?"),
    ],
    "a circle of links": [
        path("a.yaml", "a.yaml  cannot be read (Too many levels of symbolic links)", circle),
        path("self.yaml", "self.yaml  cannot be read", lambda folder: (folder / "self.yaml").symlink_to("self.yaml")),
    ],
    "standard input, a pipe, a device": [
        path("-", "-  a sweep cannot be read from standard input; save it to a file"),
        path("pipe", "pipe  is not a regular file", lambda folder: os.mkfifo(folder / "pipe")),
        path("/dev/zero", "/dev/zero  is not a regular file (a pipe, a socket or a device)"),
    ],
    # YAML
    "a tab": [
        line("budget:\n\ttrials: 3", "6:1  is not YAML: a tab; YAML is indented with spaces"),
        file("a:\n\tb: 1\n", ":2:1  is not YAML: a tab"),
    ],
    "an open bracket or quote": [
        file("name: [1, 2\n", ":2:1  is not YAML: a bracket is not closed"),
        file("name: 'x\n", ":2:1  is not YAML: a quote is not closed"),
        file("a: {b: 1\nc: 2}\n", ":2:2  is not YAML: a bracket is not closed, or a comma"),
    ],
    "a wrong indentation": [
        file("a:\n    b: 1\n  c: 2\n", ":3:3  is not YAML: the indentation matches no line above"),
        file("a: 1\n  b: 2\n", ":2:4  is not YAML: a second ':' in one value"),
    ],
    "two documents": [
        file(BASE + "---\n" + BASE, ":6:1  a second document starts here; one file is one sweep"),
        file("a: 1\n...\n---\nb: 2\n", ":3:1  a second document"),
    ],
    "not a mapping": [
        file("- name: x\n", ":1:1  holds a list; a sweep is a mapping with name, budget and space"),
        file("hello\n", ":1:1  holds 'hello'"),
        file("null\n", ":1:1  is empty; a sweep is a mapping"),
    ],
    "a key given twice": [
        file("name: x\nseed: 1\nname: y\n", ":3:1  the key 'name' is already in line 1"),
        height("low: 0, low: 1", "5:26  the key 'low' is already in line 5"),
    ],
    "an unknown anchor": [
        line("seed: *here", "6:7  *here: anchors and aliases are not supported; repeat the value"),
        file("*a : 1\n", ":1:1  *a: anchors"),
    ],
    "an alias of itself": [
        file("a: &a [*a]\n", ":1:4  &a: anchors and aliases are not supported"),
        file("&a a: {b: *a}\n", ":1:1  &a: anchors"),
    ],
    "aliases that multiply": [
        file("a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\n", ":1:4  &a: anchors"),
        file("a: [x]\nb: &lol [y, y]\n", ":2:4  &lol: anchors"),
    ],
    "endless nesting": [
        file("a: " + "[" * 3000, ":1:53  nested deeper than 50 levels"),
        file("a: " + "{a: " * 3000, ":1:200  nested deeper than 50"),
        file("- " * 3000, ":1:101  nested deeper than 50"),
    ],
    "a tag": [
        file(
            "a: !!python/object/apply:os.system [ls]\n",
            ":1:4  '!!python/object/apply:os.system': tags are not supported; write plain values",
        ),
        file("a: !mine 1\n", ":1:4  '!mine': tags"),
        line("seed: !!int 1", "6:7  '!!int': tags"),
    ],
    "a key that is not text": [
        file("1: a\n", ":1:1  the key '1' is not text; quote it if it is meant as text"),
        file("null: a\n", ":1:1  the key 'null' is no"),
        file("[1, 2]: a\n", ":1:1  a list or a mapping cannot be a key"),
        line("on: 1", "6:1  on: unknown key"),
    ],
    "a merge key": [
        file("a: {<<: {b: 1}}\n", ":1:5  <<: merge keys are not supported; repeat the keys"),
        line("<<: [a, b]", "6:1  <<: merge keys"),
    ],
    # values
    "yes, no, on, off for true and false": [
        line(
            "pruner: {type: none}\nsampler: {type: tpe, constant_liar: no}",
            "7:22  sampler.constant_liar: 'no' must be true or false; write false",
        ),
        line("sampler: {type: qmc, scramble: y}", "6:22  sampler.scramble: 'y' must be true or false; write true"),
    ],
    "an octal number": [
        line("seed: 012", "6:7  012 looks octal; write 12 if it is a number, '012' if it is text"),
        height("type: int, low: 00, high: 07", "5:34  00 looks octal; write 0"),
    ],
    "a time of day for a number": [
        budget("timeout: 12:30", "4:32  budget.timeout: '12:30' is not a duration; write 30m (units d, h, m, s"),
        line("seed: 1:30:00", "6:1  seed: '1:30:00' must be a whole number"),
    ],
    "a date for a number": [
        line("seed: 2024-01-01", "6:1  seed: '2024-01-01' must be a whole number"),
        budget("timeout: 2024-01-01", "4:32  budget.timeout: '2024-01-01' is not a duration"),
    ],
    "a bound that is not finite": [
        height("type: float, low: .nan, high: 1", "5:31  space.height.low: nan must be a finite number"),
        height("type: float, low: 0, high: .inf", "5:39  space.height.high: inf must be"),
        height("type: float, low: -1e308, high: 1e308", "5:31  space.height.low: -1e+308 to 1e+308 is too wide"),
    ],
    "a number in quotes": [
        line('seed: "1"', "6:1  seed: '1' must be a whole number; write it without quotes: 1"),
        line('dataset: {type: digits, train: "10"}', "6:25  dataset.train: '10' must be a whole number"),
        budget('parallel: "2"', "4:32  budget.parallel: '2' must be a whole number or auto"),
    ],
    "true for a number": [
        line("seed: true", "6:1  seed: true must be a whole number"),
        line("dataset: {type: digits, train: true}", "6:25  dataset.train: true must"),
        budget("timeout: true", "4:32  budget.timeout: true must be a number"),
    ],
    "a number that is too large": [
        line(f"seed: 1{'0' * 400}", "6:7  '10000"),
        height("type: int, low: 0, high: 1e400", "5:37  space.height.high: inf must be a whole"),
        line("budget: {trials: 3, epochs: 1e300}", "4:21  budget.epochs: 1e+300 must be <= 1e+06"),
    ],
    "a fraction for a whole number": [
        line("budget: {trials: 3.5, epochs: 2}", "4:10  budget.trials: 3.5 must be a whole number"),
        line("dataset: {type: digits, train: 3.5}", "6:25  dataset.train: 3.5 must be a whole number"),
    ],
    # keys
    "an unknown key": [
        line("objectiv: {}", "6:1  objectiv: unknown key. Did you mean 'objective'?"),
        line("budget: {trial: 3, epochs: 1}", "4:10  budget.trial: unknown key. Did you mean 'trials'?"),
        line("pruner: {type: median, zzz: 3}", "6:24  pruner.zzz: unknown key. Known: "),
    ],
    "a missing key": [
        line("budget: {epochs: 1}", "4:1  budget.trials: is missing"),
        file("name: x\nspace: {a: 1}\n", "  budget: is missing"),
        line("budget: {trials: 1}", "4:1  budget: has no length of a trial; give epochs, or steps"),
    ],
    "a value in the wrong place": [
        line("trials: 3", "6:1  trials: unknown key"),
        line("budget: 3", "4:1  budget: 3 must be a mapping (key: value)"),
        line("sampler: tpe", "6:1  sampler: 'tpe' must be a mapping (key: value); try {type: tpe}"),
        space("height: [1, 2]", "5:9  space.height: [1, 2] must be a mapping"),
    ],
    "null": [
        file(NO_BUDGET, ":3:1  budget: is null; give a value, or leave the key out"),
        line("name:", "1:1  name: is null"),
        height("type: float, low: ~, high: 1", "5:31  space.height.low: is null"),
    ],
    "an unknown word": [
        line("sampler: {type: tpee}", "6:11  sampler.type: 'tpee' is not known. Did you mean 'tpe'?"),
        line(
            "objective: {metric: score, direction: max}",
            "3:28  objective.direction: 'max' is not known. Did you mean 'maximize'?",
        ),
    ],
    "a version of the file format": [
        line("version: two", "6:1  version: unknown key. Known: name, description"),
        line("schema: 1", "6:1  schema: unknown key"),
    ],
    "a key of a later version": [
        line("budget: {trials: 3, epochs: 2, dollars: 5}", "4:32  budget.dollars: unknown key. Known: trials, epochs"),
        line("version: 99", "6:1  version: unknown key"),
    ],
}
