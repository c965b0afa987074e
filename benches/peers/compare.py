#!/usr/bin/env python3
"""Times tilewise and other programs on the same networks, in turns, after their results were found to be equal.

compare.py --presets tiny,small --out DIR        README.md says what is compared, and what is not the same.
"""

import argparse
import datetime
import importlib.util
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import threading
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PASSES = ("inference", "training step")

# By what share of their norm logits and losses may differ from tilewise's. Each of some twenty layers adds a rounding of its operands,
# 2^-11 (TF32, and f16 as ours is stored) or 2^-8 where they have fewer bits; in f32 the order of sums and Winograd's transforms count
# more than the 2^-24 of a rounding. A unit near 0 that is on in one program and off in the other changes the gradients by its whole
# share, so that they may differ by the root of that.
BOUNDS = {"f32": 2e-5, "tf32": 2e-2, "mixed": 2e-2, "bf16": 1e-1}

PEERS = {
    "tilewise": "tilewise",
    "tilewise-mixed": "tilewise, mixed precision",
    "tilewise-cpu": "tilewise, CPU executor",
    "torch-cpu": "PyTorch, CPU",
    "torch-cpu-bf16": "PyTorch, CPU, bf16 autocast",
    "torch-cuda": "PyTorch, CUDA, f32 without TF32",
    "torch-cuda-tf32": "PyTorch, CUDA, TF32",
    "torch-cuda-bf16": "PyTorch, CUDA, bf16 autocast",
    "torch-mps": "PyTorch, MPS",
    "burn": "burn, wgpu",
    "burn-autotune": "burn, wgpu, autotune",
    "ncnn-vulkan": "ncnn, Vulkan",
    "ncnn-cpu": "ncnn, CPU",
}
# The others must be asked for: fewer bits on a CPU are no peer of f32, and autotune takes minutes on a software driver.
DEFAULT = [name for name in PEERS if name not in ("tilewise-mixed", "torch-cpu-bf16", "burn-autotune")]


class Absent(Exception):
    """Why a program does not take part."""


def say(text):
    print(text, file=sys.stderr, flush=True)


class Tools:
    """Finds, and unless told otherwise builds or installs, what the programs need."""

    def __init__(self, arguments):
        self.install, self.folder, self.given_tilewise = not arguments.no_install, arguments.tools, arguments.tilewise
        self.kernels = ["--kernels", arguments.kernels] if arguments.kernels else []

    def in_own_python(self):
        """Goes on in a virtual environment of our own, where packages are missing that may be installed."""
        own = self.folder / "venv"
        if self.install and Path(sys.prefix).resolve() != own.resolve():
            if not own.exists():
                say("preparing a virtual environment")
                venv.create(own, with_pip=True, system_site_packages=True)
            python = own / ("Scripts" if os.name == "nt" else "bin") / "python"
            sys.exit(subprocess.run([python, *sys.argv], check=False).returncode)

    def package(self, name):
        """Makes sure that this Python has a package."""
        if importlib.util.find_spec(name):
            return
        if not self.install:
            raise Absent(f"Python has no {name}")
        pip = [sys.executable, "-m", "pip", "install", "--quiet"]
        if name == "torch" and sys.platform == "linux" and not shutil.which("nvidia-smi"):
            # The usual wheel brings gigabytes of CUDA; where it is the only one there is, it does as well.
            try:
                return self.run([*pip, name, "--index-url", "https://download.pytorch.org/whl/cpu", "--retries", "0"], name)
            except Absent:
                pass
        self.run([*pip, name], name)

    def tilewise(self):
        if self.given_tilewise:
            return self.given_tilewise
        return self.built("tilewise", ROOT / "Cargo.toml", ROOT / "target")

    def burn(self, autotune):
        features = ["--features", "autotune"] if autotune else []
        target = self.folder / ("burn-autotune" if autotune else "burn")
        return self.built("burn-unet", HERE / "burn" / "Cargo.toml", target, *features)

    def built(self, name, manifest, target, *features):
        """A program of a Cargo project."""
        if self.install and shutil.which("cargo"):
            options = ["--release", "--locked", "--manifest-path", manifest, "--target-dir", target]
            self.run(["cargo", "build", *options, *features], target.name)
        program = target / "release" / name
        if not program.exists():
            raise Absent(f"it is not built, and there is no cargo to build {program.name} with")
        return program

    def run(self, command, name):
        say(f"preparing {name}")
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{name}.log"
        with open(log, "w", encoding="utf-8") as file:
            failed = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
        if failed:
            raise Absent(f"{Path(command[0]).name} failed, see {log}: {last_line(log)}")


def last_line(path):
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "without a word"


def command(name, preset, tools, given, results):
    """What starts a peer, and the precision of its results."""
    kind, *rest = name.split("-")
    if kind == "tilewise":
        options = {"cpu": ["--device", "cpu"], "mixed": [*tools.kernels, "--precision", "mixed"]}[rest[0]] if rest else tools.kernels
        line = [tools.tilewise(), "bench", "--preset", preset, "--rounds", results, *options]
        return line, "mixed" if "mixed" in rest else "f32"
    if kind == "torch":
        device, precision = rest[0], rest[1] if len(rest) > 1 else "f32"
        if device == "mps" and sys.platform != "darwin":
            raise Absent("MPS is macOS's")
        if device == "cuda" and not shutil.which("nvidia-smi"):
            raise Absent("there is no nvidia-smi, so no CUDA device")
        tools.package("torch")
        return [sys.executable, HERE / "torch_unet.py", given, results, device, precision], precision
    if kind == "ncnn":
        tools.package("ncnn")
        return [sys.executable, HERE / "ncnn_unet.py", given, results, rest[0]], "f32"
    return [tools.burn(bool(rest)), given, results], "f32"


class Program:
    """A program that waits for its turn."""

    def __init__(self, command, log, seconds):
        self.log = log
        with open(log, "w", encoding="utf-8") as errors:
            streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
            self.process = subprocess.Popen([str(part) for part in command], text=True, **streams)
        self.facts = self.answer(seconds)

    def answer(self, seconds):
        """The next line of JSON, waited for so long. What else a library prints is left out."""
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        for line in self.process.stdout:
            if line.startswith(("{", "[")):
                try:
                    answer = json.loads(line)
                except ValueError:
                    continue
                timer.cancel()
                return answer
        late = not timer.is_alive()
        timer.cancel()
        code = self.process.wait()
        raise Absent(f"no answer in {seconds} s" if late else f"it ended with code {code}: {last_line(self.log)}")

    def time(self, name, count, seconds):
        try:
            self.process.stdin.write(f"{name} {count}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # The answer says why.
        return self.answer(seconds)

    def end(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass  # It ended before.
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def differences(results, given, precision):
    """How far logits, losses and gradients are from tilewise's, as shares of their norms, if the logits are near enough; and which of the others is
    not, if one is."""
    import numpy
    from safetensors.numpy import load_file

    bound = BOUNDS[precision]
    bounds = {"logits": bound, "losses": bound, "gradients": bound**0.5}
    found, wrong = {}, None
    # What only infers has no gradients, and no losses.
    files = [name for name in ("outputs", "gradients") if (results / f"{name}.safetensors").exists()]
    if "outputs" not in files:
        raise Absent("WRONG: it wrote no outputs")
    for name in files:
        arrays, expected = (load_file(where / f"{name}.safetensors") for where in (results, given))
        missing = expected.keys() - arrays.keys() - {"losses"}
        if missing:
            raise Absent(f"WRONG: its results lack {', '.join(sorted(missing))}")
        for key, array in arrays.items():
            if key not in expected or array.shape != expected[key].shape:
                raise Absent(f"WRONG: it has {key} of shape {array.shape}")
            array, reference = array.astype(numpy.float64), expected[key].astype(numpy.float64)
            difference, norm = numpy.linalg.norm(array - reference), numpy.linalg.norm(reference)
            kind, share = key if name == "outputs" else "gradients", float(difference / norm if norm else difference)
            if not share <= bounds[kind]:
                problem = f"WRONG: {kind} ({key}) differ by {share:.1e} of their norm, bound {bounds[kind]:.1e}"
                if kind == "logits":
                    raise Absent(problem)
                wrong = wrong or problem
            if math.isfinite(share):
                found[kind] = max(share, found.get(kind, 0.0))
    return found, wrong


def start(name, preset, tools, folder, arguments):
    """A program whose results are equal to tilewise's, with what is known of it. One whose logits alone are equal is timed at inference alone."""
    given, results = folder / "tilewise", folder / name
    results.mkdir(parents=True, exist_ok=True)
    for old in results.glob("*.safetensors"):
        old.unlink()
    line, precision = command(name, preset, tools, given, results)
    say(f"{preset}: {name}")
    program = Program(line, results / "log.txt", arguments.patience)
    program.bound = None if name == "tilewise" else BOUNDS[precision]
    try:
        program.differences, program.wrong = ({}, None) if name == "tilewise" else differences(results, given, precision)
    except Absent:
        program.end()
        raise
    if program.wrong:
        program.facts["first_seconds"].pop("training step", None)
        say(f"{preset}: the training step of {name} is left out: {program.wrong}")
    return program


def play(preset, tools, arguments, deadline):
    """Everything measured of a preset: facts and times of each program, and why others are absent."""
    folder = arguments.out / preset
    programs, absent = {}, {}
    for name in arguments.peers:
        try:
            programs[name] = start(name, preset, tools, folder, arguments)
        except Absent as reason:
            absent[name] = str(reason)
            say(f"{preset}: {name} is left out: {reason}")
            if name == "tilewise":
                break
    counts, rounds = {}, {name: {} for name in programs}
    turns = [(what, name) for what in PASSES for name in programs if what in programs[name].facts["first_seconds"]]
    for number in range(-1, arguments.rounds):
        if number > 0 and time.monotonic() > deadline:
            say(f"{preset}: the time is up after {number} rounds")
            break
        for turn in turns:
            what, name = turn
            if name in absent:
                continue
            try:
                if number < 0:
                    # A pass to warm up, and one that tells how many make a turn.
                    seconds = programs[name].time(what, 2, arguments.patience)[1]
                    counts[turn] = max(1, round(arguments.seconds / seconds))
                else:
                    times = programs[name].time(what, counts[turn], arguments.patience)
                    rounds[name].setdefault(what, []).append(times)
            except Absent as reason:
                absent[name] = str(reason)
    for program in programs.values():
        program.end()
    found = {}
    for name, program in programs.items():
        if name not in absent:
            summaries = {what: summary(turns, rounds["tilewise"].get(what, [])) for what, turns in rounds[name].items()}
            known = {"differences": program.differences, "bound": program.bound, "wrong": program.wrong}
            facts = {**program.facts, **known, "summary": summaries}
            found[name] = {**facts, "rounds": rounds[name]}
    return {"programs": found, "absent": absent}


def summary(rounds, ours):
    """Median and quartiles in ms, and how often ours runs in the same time: the median over the rounds."""
    times = [1e3 * seconds for turn in rounds for seconds in turn]
    low, median, high = statistics.quantiles(times, n=4) if len(times) > 1 else times * 3
    ratios = [statistics.median(turn) / statistics.median(our) for turn, our in zip(rounds, ours)]
    return {"median": median, "low": low, "high": high, "ratio": statistics.median(ratios) if ratios else None}


def digits(value):
    """Three digits."""
    return f"{value:.{max(0, 2 - int(math.floor(math.log10(value))))}f}" if value > 0 else "0"


def table(preset, measured):
    """The measurements of a preset as markdown."""
    programs, absent = measured["programs"], measured["absent"]
    lines = [
        f"## {preset}",
        "",
        "| | inference, ms | times tilewise's | training step, ms | times tilewise's | differs by | may differ by | first run, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, program in programs.items():
        cells = []
        for what in PASSES:
            if what in program["summary"]:
                of = program["summary"][what]
                cells.append(f"**{digits(of['median'])}** ({digits(of['low'])}–{digits(of['high'])})")
                cells.append(digits(of["ratio"]) if of["ratio"] and name != "tilewise" else "–")
            else:
                cells += [program["wrong"] or "–", "–"]
        differs = ", ".join(f"{kind} {share:.0e}" for kind, share in program["differences"].items()) or "–"
        bound = program["bound"]
        may = f"{bound:.0e}, gradients {bound**0.5:.1e}" if bound else "–"
        first = " + ".join(digits(program["first_seconds"][what]) for what in PASSES if what in program["first_seconds"])
        lines.append(f"| {PEERS[name]} | {' | '.join(cells)} | {differs} | {may} | {first} |")
    lines += [f"| {PEERS[name]} | {reason.replace('|', '/')} | | | | | | |" for name, reason in absent.items()]
    return "\n".join(lines)


def machine():
    """What everything ran on."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    git = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return {
        "date": datetime.date.today().isoformat(),
        "commit": git.stdout.strip() or "unknown",
        "processor": f"{model}, {os.cpu_count()} cores",
        "system": platform.platform(),
        "python": platform.python_version(),
        "driver files": os.environ.get("VK_DRIVER_FILES") or os.environ.get("VK_ICD_FILENAMES"),
    }


def facts_table(programs):
    """What each program says of itself."""
    lines = ["| | version | device | driver | threads |", "|---|---|---|---|---|"]
    for name, facts in programs.items():
        device, driver = facts["device"], facts.get("driver")
        if isinstance(device, dict):
            device, driver = f"{device['name']} ({device['kind']}, {device['backend']})", device["driver"]
        cells = [PEERS[name], facts["version"], device, driver or "–", facts.get("threads") or "–"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def page(result):
    """Everything as markdown."""
    facts = {}
    for measured in result["presets"].values():
        facts |= {name: program for name, program in measured["programs"].items() if name not in facts}
    lines = [f"- {key}: {value}" for key, value in result["machine"].items() if value]
    tables = [table(preset, measured) for preset, measured in result["presets"].items()]
    return "\n\n".join(["# tilewise and its peers", "\n".join(lines), facts_table(facts), *tables]) + "\n"


def names(known):
    """A list with commas of names that must be known."""

    def parse(text):
        unknown = [name for name in text.split(",") if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(known)}")
        return text.split(",")

    return parse


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    presets = ("tiny", "small", "medium", "paper")
    parser.add_argument("--presets", type=names(presets), default=["tiny", "small"], help=f"of {', '.join(presets)}")
    parser.add_argument("--peers", type=names(PEERS), default=DEFAULT, help=f"of {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each program in each pass")
    parser.add_argument("--seconds", type=float, default=0.25, help="least length of a turn")
    parser.add_argument("--patience", type=float, default=600, help="seconds to wait for an answer, the first run included")
    parser.add_argument("--limit", type=float, default=float("inf"), help="seconds after which no new round begins")
    parser.add_argument("--out", type=Path, default=ROOT / "target" / "peers" / "results", help="folder of the results")
    parser.add_argument("--tools", type=Path, default=ROOT / "target" / "peers", help="folder for what is built and installed")
    parser.add_argument("--tilewise", type=Path, help="a tilewise that is built already")
    parser.add_argument("--kernels", help="tilewise's kernels: a table of tilewise tune, or default [default: as tilewise has it]")
    parser.add_argument("--no-install", action="store_true", help="build and install nothing: use what is there")
    arguments = parser.parse_args()
    deadline = time.monotonic() + arguments.limit
    arguments.peers = ["tilewise", *(name for name in arguments.peers if name != "tilewise")]
    tools = Tools(arguments)
    tools.in_own_python()
    for package in ("numpy", "safetensors"):
        try:
            tools.package(package)
        except Absent as reason:
            sys.exit(f"results cannot be compared: {reason}")
    result = {"machine": machine(), "command": " ".join(sys.argv), "presets": {}}
    for preset in arguments.presets:
        result["presets"][preset] = play(preset, tools, arguments, deadline)
        text = page(result)
        (arguments.out / "results.md").write_text(text, encoding="utf-8")
        (arguments.out / "results.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(text)
    sys.exit(0 if all("tilewise" in measured["programs"] for measured in result["presets"].values()) else 1)


if __name__ == "__main__":
    main()
