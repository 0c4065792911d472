"""Steps that two engines were asked for, side by side: files of them, and what differs.

A file has steps, each `$ KEY` with lines behind it: `> ` and `! ` of what was answered, `= ` the status.
Whatever stands before a step is for people: differences.txt has reasons there."""

from pathlib import Path

MARKS = ("> ", "! ", "= ")


def written(steps):
    return "".join("\n".join([f"$ {key}", *lines]) + "\n\n" for key, lines in steps.items())


def numbered(steps, key):
    """`key`, or with its count behind it where it is in `steps`."""
    found, count = key, 1
    while found in steps:
        count += 1
        found = f"{key}  ({count})"
    return found


def read(path):
    """Steps by key; reasons are left out."""
    steps, key = {}, None
    for line in path.read_text().splitlines():
        if line.startswith("$ "):
            key = line[2:]
            steps[key] = []
        elif key is not None and line[:2] in MARKS:
            steps[key].append(line)
    return steps


def differing(reference, seen, meant=lambda lines: lines):
    """Steps that are not as the reference's, by those of their lines that are `meant`."""
    return {key: lines for key, lines in seen.items() if meant(reference.get(key, [])) != meant(lines)}


def check(seen, folder, meant=lambda lines: lines):
    """What is wrong, as lines, beside dockerd.txt and differences.txt of `folder`."""
    reference, explained = read(Path(folder) / "dockerd.txt"), read(Path(folder) / "differences.txt")
    differences, wrong = differing(reference, seen, meant), []
    for key, lines in differences.items():
        if key in explained and meant(explained[key]) == meant(lines):
            continue
        wrong += [f"$ {key}", "  the engine:", *[f"    {line}" for line in lines]]
        if key in explained:
            wrong += ["  explained:", *[f"    {line}" for line in explained[key]]]
        wrong += ["  dockerd:", *[f"    {line}" for line in reference.get(key, ["(was not asked)"])]]
    for key in explained.keys() - differences.keys():
        wrong.append(f"$ {key}\n  is explained in differences.txt, and is no difference (any more)")
    print(f"{len(seen)} steps: {len(seen) - len(differences)} as dockerd, {len(differences)} otherwise, "
          f"{len(explained)} of them explained")
    return wrong
