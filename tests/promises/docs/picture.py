"""The picture of the README: its first command, run in a terminal of 80 columns, and the image that this draws.

`python tests/promises/docs/picture.py`, run in the checkout, makes examples/first_run.svg anew.
"""

import base64
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[3]
PICTURE = ROOT / "examples" / "first_run.svg"
COLUMNS, ROWS = 80, 24
WIDTH, MARGIN, LINE, IMAGE = 740, 18, 21, 264


@dataclass(frozen=True, kw_only=True)
class Run:
    """The lines that stand on the screen after the command, which is the first, and the image as a PNG file."""

    lines: list[str]
    image: bytes


def first_command() -> str:
    """The README's command that draws."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    [command] = re.findall(
        r"^<!-- ci: try -->\n```sh\n.*?(^flux-openai generate .*?)$.*?^```", text, re.DOTALL | re.MULTILINE
    )
    return str(command)


def run() -> Run:
    """Run the command in a pseudo-terminal, in an empty folder and without a key."""
    command = first_command()
    with tempfile.TemporaryDirectory() as folder:
        output = _in_a_terminal(command.replace("flux-openai", f"'{sys.executable}' -m flux_openai", 1), folder)
        [image] = Path(folder, "out").glob("*.png")
        lines = [f"$ {command}", *_screen(output)]
        while not lines[-1]:
            lines.pop()
        return Run(lines=lines, image=image.read_bytes())


def _in_a_terminal(command: str, folder: str) -> str:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("MODELVERSE_") and name != "COLUMNS"
    }
    environment = {**kept, "TERM": "xterm", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        ["/bin/sh", "-c", command], cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    ) as program:
        os.close(theirs)
        output = b""
        while chunk := _read(ours):
            output += chunk
        os.close(ours)
    if program.returncode:
        raise RuntimeError(output.decode())
    return output.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux has this for the end of the file
        return b""


def _screen(output: str) -> list[str]:
    """The lines that are left: a progress display is drawn over, again and again, and then erased."""
    lines, row, column = [""], 0, 0
    for number, letter, control, text in re.findall(r"\x1b\[\??([\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)", output):
        if text:
            lines[row] = lines[row].ljust(column)[:column] + text + lines[row][column + len(text) :]
            column += len(text)
        elif control == "\r":
            column = 0
        elif control == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif letter == "A":
            row = max(0, row - int(number or 1))
        elif letter == "K":
            lines[row] = "" if number == "2" else lines[row][:column]
    return lines


def as_svg(run: Run) -> str:
    """A terminal with the lines, and the image below them: dark, with a frame, on pages of either colour."""
    top = 2 * MARGIN + LINE * len(run.lines)
    # A PNG file begins with its signature and the header of the first chunk; then come width and height.
    width, height = struct.unpack(">II", run.image[16:24])
    shown = round(IMAGE * width / height), IMAGE
    lines = "\n".join(
        f'<text x="{MARGIN}" y="{MARGIN + LINE * number}" textLength="{len(line) * 8.8:.1f}">{escape(line)}</text>'
        for number, line in enumerate(run.lines, start=1)
    )
    data = base64.b64encode(run.image).decode()
    total = top + shown[1] + MARGIN
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{total}" viewBox="0 0 {WIDTH} {total}">
<title>{escape(run.lines[0])}</title>
<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{total - 1}" rx="8" fill="#1b1f24" stroke="#6e7781"/>
<g fill="#e6edf3" font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace" \
font-size="14.5" xml:space="preserve">
{lines}
</g>
<image x="{MARGIN}" y="{top}" width="{shown[0]}" height="{shown[1]}" href="data:image/png;base64,{data}"/>
</svg>
"""


if __name__ == "__main__":
    PICTURE.write_text(as_svg(run()), encoding="utf-8")
