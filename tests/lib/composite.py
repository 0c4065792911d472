#!/usr/bin/env python3
"""usage: composite.py STATE IMAGE OUT

Writes what the block device of an unpacked image shows: its metadata's first block, its layers'
content, the rest of the metadata.
"""
import hashlib
import json
import sys
from pathlib import Path

state, name, out = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
table = json.loads((state / "images/images.json").read_text())
names = [full for full in table["names"] if full == name or full.endswith("/" + name)]
layers = [layer["diff_id"].removeprefix("sha256:")
          for layer in table["images"][table["names"][names[0]]["image"]]["variants"][-1]["layers"]]
chain = "sha256:" + layers[0]
for layer in layers[1:]:
    chain = "sha256:" + hashlib.sha256(f"{chain} sha256:{layer}".encode()).hexdigest()
folder = state / "erofs/2"
metadata = (folder / f"{chain.removeprefix('sha256:')}.erofs").read_bytes()
with open(out, "wb") as file:
    file.write(metadata[:4096])
    for layer in dict.fromkeys(layers):
        file.write((folder / "layers" / f"{layer}.data").read_bytes())
    file.write(metadata[4096:])
