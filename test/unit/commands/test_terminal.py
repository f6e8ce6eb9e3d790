"""What a person sees on a terminal, and that a log that is captured or written to a file is complete."""

import fcntl
import logging
import os
import re
import struct
import sys
import termios
import threading
import tty

import pytest

import utils

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there are no pseudo-terminals")
FULL_LINES = (
    r"Epoch: \[0\]  \[0/3\]  eta: ",
    r"Epoch: \[0\] Total time: ",
    r"iters num: 3, batch_size: 4, world_size: 1",
    r"Epoch: \[0\] FPS: \d+\.\d\d \(",
    r"Averaged stats: lr: ",
    r"\* Acc@1 ",
    r"Accuracy of the network on the 5 test images: ",
    r"EMA: Acc@1 ",
    r"Max accuracy: ",
)
LONG_FIGURE = r"\.\d{10}"


class Terminal:
    """A pseudo-terminal, 160 characters wide, that collects what is written to `stream`."""

    def __init__(self):
        self.reader, writer = os.openpty()
        tty.setraw(writer)  # a line ends with \n alone
        fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
        self.stream, self.data = os.fdopen(writer, "w", encoding="utf-8"), b""
        self.thread = threading.Thread(target=self._collect)
        self.thread.start()

    def _collect(self):
        try:
            while True:
                self.data += os.read(self.reader, 4096)
        except OSError:  # the other end is closed
            os.close(self.reader)

    def text(self):
        """Close the terminal and return all that was written."""
        self.stream.close()  # twice does no harm
        self.thread.join()
        return self.data.decode()

    def lines(self):
        """Close the terminal and return the lines that stay there, without the progress bars before them."""
        return [line.rsplit("\r", 1)[-1] for line in self.text().split("\n")]


@pytest.fixture
def attach(monkeypatch):
    """A function that makes stdout and stderr a Terminal; pytest replaces both before each test."""
    made = []

    def attach():
        made.append(Terminal())
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, made[-1].stream)
        return made[-1]

    yield attach
    for terminal in made:
        terminal.text()


def test_a_terminal_shows_one_line_an_epoch(small, tmp_path, attach):
    terminal = attach()
    assert small("--output-dir=%s" % (tmp_path / "out"), "--print-freq=1") == 0
    lines = terminal.lines()
    epochs = [line for line in lines if re.match(r"\d\d:\d\d:\d\d epoch ", line)]
    figures = r"loss \d\.\d{4}  val loss \d\.\d{4}  Acc@1 \d+\.\d\d%  best \d+\.\d\d%  EMA Acc@1 \d+\.\d\d%"
    pattern = r"\d\d:\d\d:\d\d epoch (\d)  " + figures + r"  \d+ images/s  \d:\d\d:\d\d left"
    assert [re.fullmatch(pattern, line).group(1) for line in epochs] == ["0", "1", "2"]
    assert epochs[-1].endswith("0:00:00 left")
    for full in FULL_LINES:
        assert not [line for line in lines if re.search(full, line)], full
    assert not [line for line in lines if re.search(LONG_FIGURE, line) or "INFO" in line]
    assert re.search(r"Weights: .*best\.pth", lines[-2]) and lines[-1] == ""
    assert "Epoch: [0]:" in terminal.text()  # the progress bar


def test_the_log_file_of_a_run_on_a_terminal_is_complete(small, tmp_path, attach):
    attach()
    assert small("--output-dir=%s" % (tmp_path / "out"), "--epochs=1") == 0
    log = (tmp_path / "out" / "train_0.log").read_text()
    for full in FULL_LINES:
        assert re.search(r"^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d smlpnet_tiny\] \(\w+\.py \d+\): INFO " + full, log, re.M)
    assert " left\n" not in log and not re.search(LONG_FIGURE, log)


def test_a_captured_log_is_complete(small, tmp_path, capsys):
    assert small("--output-dir=%s" % (tmp_path / "out"), "--epochs=1") == 0
    text = capsys.readouterr().out
    assert text == (tmp_path / "out" / "train_0.log").read_text()
    for full in FULL_LINES:
        assert re.search(full, text), full


def test_without_a_bar_on_stderr_a_terminal_shows_the_full_lines(small, monkeypatch, attach, tmp_path):
    terminal = attach()
    with open(str(tmp_path / "errors"), "w") as errors:
        monkeypatch.setattr(sys, "stderr", errors)
        assert small("--epochs=1") == 0
    assert re.search(FULL_LINES[0], terminal.text())


def test_a_run_that_saves_nothing_ends_by_telling_so(small, capsys, tmp_path):
    assert small("--epochs=1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "NOTHING IS SAVED" in "".join(lines[:20]) and lines[-1].endswith(
        "Nothing is saved: there is no --output-dir"
    )
    assert small("--epochs=1", "--output-dir=%s" % (tmp_path / "out")) == 0
    assert "othing is saved" not in capsys.readouterr().out


def test_an_evaluation_names_the_validation_images(small, tmp_path, attach):
    terminal = attach()
    out = tmp_path / "out"
    assert small("--output-dir=%s" % out, "--epochs=1") == 0
    trained = len(terminal.data)
    assert small("--eval", "--resume=%s" % out) == 0
    text = terminal.text()[trained:]
    for name in ("", "EMA: "):
        figures = r"Acc@1 \d+\.\d{3}%  Acc@5 100\.000%  loss \d\.\d{3}  on 5 validation images"
        assert re.search(r"^\d\d:\d\d:\d\d %s%s$" % (name, figures), text, re.M)
    assert "test images" not in text


def test_throughput_has_two_decimals(small, capsys):
    assert small("--throughput") == 0
    assert re.search(r"batch_size 5 throughput \d+\.\d\d$", capsys.readouterr().out, re.M)


def test_the_numbers_of_the_classes_are_printed_after_training(small, tmp_path, capsys):
    out = ["--output-dir=%s" % (tmp_path / "out"), "--per-class", "--epochs=1"]
    assert small(*out) == 0
    text = capsys.readouterr().out
    assert text.count("Lowest accuracy by class") + text.count("Every image is predicted as its own class") == 1
    assert text.index("Training time") > max(text.rfind("Lowest accuracy"), text.rfind("Every image is predicted"))
    table = re.search(r"INFO ((Lowest|Every image) .*?)\n\[", text, re.S).group(1)
    assert small(*out) == 0  # nothing is left to train
    assert table in capsys.readouterr().out


def test_warnings_are_marked_on_a_terminal(attach):
    terminal = attach()
    logger = utils.open_log("test", True)
    logger.info("first")
    logger.warning("second %d", 2)
    assert [line[9:] for line in terminal.lines()] == ["first", "warning: second 2", ""]
    assert logging.getLogger().handlers[0].formatter.datefmt == "%H:%M:%S"
