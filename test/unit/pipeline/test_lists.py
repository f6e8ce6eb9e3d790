"""pipeline/lists.py: lists of images with their labels."""

import json
import os
import subprocess
import sys

import numpy
import pytest
from odd_pictures import odd_names
from paths import ROOT

from pipeline.lists import ListRow, number_labels, read_class_names, read_rows
from runtime.errors import UserError


@pytest.fixture
def listed(tmp_path):
    """Write a list and read it: the rows."""

    def read(name, content, column=None):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape"))
        return list(read_rows(str(path), column))

    return read


ROWS = [ListRow("a b.jpg", "3", 2), ListRow("../c.png", "12", 4)]


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.csv", "path,label\na b.jpg,3\n\n../c.png,12\n"),
        ("a.CSV", '\ufeff"path",label\r\na b.jpg,3\r\n\r\n"../c.png",12'),
        ("a.csv", "size,label , path\n9,3,a b.jpg\n   \n8, 12,../c.png\n"),
        ("a.tsv", "path\tlabel\tmore\na b.jpg\t3\t\n\n../c.png\t12\tx,y\n"),
        ("a.jsonl", '\n{"path": "a b.jpg", "label": 3}\n\n{"size": 1e999, "label": "12", "path": "../c.png"}'),
        ("a.jsonl", '\ufeff\r\n{"path": "a b.jpg", "label": " 3"}\r\n \t\n{"label": 12, "path": "../c.png"}\r\n'),
        ("a.txt", "\na b.jpg 3\n\n../c.png \t 12\n"),
        ("a.txt", "\ufeff\r\na b.jpg\t3 \r\n  \r\n../c.png 12\r\n"),
    ],
)
def test_each_form_gives_the_same_rows(listed, name, content):
    assert listed(name, content) == ROWS


def test_absolute_paths_and_odd_names_are_kept(listed):
    names = ["/data/a.jpg", "a,b.jpg", 'a "b".jpg', "a\r\nb.jpg", "\t tab.jpg ", *odd_names()]
    quoted = ['"%s"' % name.replace('"', '""') for name in names]
    rows = listed("a.csv", "path,label\n" + "".join("%s,x y\n" % name for name in quoted))
    assert [row.path for row in rows] == names and {row.label for row in rows} == {"x y"}
    assert [row.line for row in rows][:6] == [2, 3, 4, 5, 7, 8]
    rows = listed("a.jsonl", "".join(json.dumps({"path": name, "label": 0}) + "\n" for name in names))
    assert [row.path for row in rows] == names
    rows = listed("a.txt", b"\xff \xe9.jpg 7\n\xe2\x80\xa8\xc2\x85x.jpg 8\n")
    assert [os.fsencode(row.path) for row in rows] == [b"\xff \xe9.jpg", b"\xe2\x80\xa8\xc2\x85x.jpg"]


LONG = "x" * (2**20 + 1)


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("a.csv", "a.jpg,3\n", r"line 1: the header has the columns a.jpg, 3 and not path: .*path and label.* comma"),
        ("a.csv", "\n\npath;label\n", "line 3: the header has the columns path;label and not path"),
        ("a.tsv", "path,label\n", "line 1: .*path,label and not path: .* a tab between"),
        ("a.csv", "path,label,path\n", "line 1: the header has the column path twice"),
        ("a.csv", "path,label\na.jpg\n", "line 2: it has 1 columns and the header 2"),
        ("a.csv", "path,label\n\na,b.jpg,cat\n", "line 3: it has 3 columns and the header 2: quote what holds a comma"),
        ("a.csv", "path,label\n,cat\n", "line 2: the path is empty"),
        ("a.csv", "path,label\n  ,cat\n", "line 2: the path is empty"),
        ("a.csv", 'path,label\n"a\nb",cat\nc, \n', "line 4: the label is empty"),
        ("a.csv", "path,label\na\0.jpg,cat\n", "line 2: it has a null byte"),
        ("a.csv", "path,label\na.jpg,cat\n".encode("utf-16"), "line 1: it has a null byte: save the list .* UTF-8"),
        ("a.csv", 'path,label\na,b\n"c,d\ne,f\n', "line 3: it cannot be parsed .*: close each quote"),
        ("a.csv", 'path,label\n"%s",cat\n' % LONG[:200000], "line 2: it cannot be parsed .*limit"),
        ("a.csv", "path,label\ra.jpg,cat\r", "line 1: it cannot be parsed .*end each line by a line feed"),
        ("a.csv", "path,label\n%s,cat\n" % LONG, "line 2: it is longer than 1048576 characters"),
        ("a.csv", "path,label\n\n", "a.csv lists no images"),
        ("a.csv", "", "a.csv lists no images"),
        ("a.txt", " \n", "a.txt lists no images"),
        ("a.txt", "a.jpg cat\n", "line 1: it must end in a blank and the number of a class, not in cat"),
        ("a.txt", "a.jpg 1\n7\n", "line 2: the path is empty"),
        ("a.txt", "a.jpg -1\n", "line 1: .* not in -1"),
        ("a.txt", "a.jpg \u0663\n", "line 1: .* not in \u0663"),
        ("a.jsonl", LONG, "line 1: it is longer"),
        ("a.jsonl", '{"path": "a", "label": 1}\n{"path": "b", "label"\n', "line 2: it is no JSON"),
        ("a.jsonl", "[" * 100000, "line 1: it is no JSON .lists within lists"),
        ("a.jsonl", '["a.jpg", 3]', "line 1: it is no object"),
        ("a.jsonl", '\n{"path": "a", "Label": 3}', "line 2: it has the keys path, Label and not label"),
        ("a.jsonl", "{}", "line 1: it has the keys of nothing and not path"),
        ("a.jsonl", '{"path": 3, "label": 3}', "line 1: path is 3: write a string$"),
        ("a.jsonl", '{"path": "a", "label": true}', "line 1: label is true: write a string or an integer"),
        ("a.jsonl", '{"path": "a", "label": 3.0}', "line 1: label is 3.0"),
        ("a.jsonl", '{"path": "a", "label": NaN}', "line 1: label is null"),
        ("a.jsonl", '{"path": "a", "label": null}', "line 1: label is null"),
        ("a.jsonl", '{"path": "a", "label": [3]}', r"line 1: label is \[3\]"),
        ("a.jsonl", '{"path": "a", "label": %s}' % ("9" * 5000), "line 1: label is null"),
        ("a.jsonl", r'{"path": "a\u0000", "label": 3}', "line 1: path has a character that no file name can have"),
        ("a.jsonl", r'{"path": "\ud800", "label": 3}', "line 1: path has a character that no file name can have"),
        ("a.jsonl", b'{"path": "caf\xe9", "label": 3}', "line 1: it is not UTF-8"),
        ("a.jpg", "", "a.jpg is no list: name a file that ends in .csv, .tsv, .jsonl, .txt"),
    ],
)
def test_a_bad_row_is_named_with_its_line(listed, name, content, says):
    with pytest.raises(UserError, match=says):
        listed(name, content)


def test_rows_before_a_bad_one_are_yielded(tmp_path):
    (tmp_path / "a.txt").write_text("a 1\nb 2\nc\n")
    rows = read_rows(str(tmp_path / "a.txt"))
    assert [next(rows).path, next(rows).path] == ["a", "b"]
    with pytest.raises(UserError, match="line 3"):
        next(rows)


def test_a_further_column_is_the_group(listed):
    assert listed("a.csv", "path,who,label\na,P 1,3\n", "who") == [ListRow("a", "3", 2, "P 1")]
    assert listed("a.jsonl", '{"path": "a", "label": 3, "who": 7}', "who") == [ListRow("a", "3", 1, "7")]
    with pytest.raises(UserError, match="line 1: the header has the columns path, label and not who"):
        listed("a.csv", "path,label\na,3\n", "who")
    with pytest.raises(UserError, match="line 3: the column who is empty"):
        listed("a.csv", "path,label,who\na,3,x\nb,3, \n", "who")
    with pytest.raises(UserError, match="line 1: it has the keys path, label and not who: .* label and who"):
        listed("a.jsonl", '{"path": "a", "label": 3}', "who")
    with pytest.raises(UserError, match="a.txt has no column who"):
        listed("a.txt", "a 3", "who")


def test_what_is_no_readable_file_is_refused(tmp_path):
    os.mkfifo(str(tmp_path / "pipe.csv"))
    (tmp_path / "folder.txt").mkdir()
    for name, says in (("pipe.csv", "not a regular file"), ("folder.txt", "not a regular"), ("no.csv", "No such file")):
        with pytest.raises(UserError, match="%s cannot be read: %s" % (name, says)):
            next(read_rows(str(tmp_path / name)))


def test_a_long_line_takes_little_memory(tmp_path):
    path = tmp_path / "a.csv"
    with open(str(path), "wb") as file:
        file.write(b'path,label\n"')
        file.truncate(2**32)
    code = "import resource, sys; from pipeline.lists import read_rows; "
    code += "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); list(read_rows(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert "UserError" in done.stderr and "line 2: it is longer" in done.stderr


def test_no_slow_package_is_imported():
    code = "import sys, pipeline.lists; print(sorted({'numpy', 'torch', 'PIL'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True) == "[]\n"


def test_the_names_of_the_classes_lie_beside_the_list(tmp_path, monkeypatch):
    path, names = str(tmp_path / "train.csv"), tmp_path / "classes.txt"
    assert read_class_names(path) is None
    names.write_bytes(b"\xef\xbb\xbfb\r\na c\n \xe2\x80\xa8\xff \n\n")
    assert read_class_names(path) == ["b", "a c", "\u2028\udcff"]
    monkeypatch.chdir(str(tmp_path))
    assert read_class_names("train.csv") == read_class_names(path)


@pytest.mark.parametrize(
    "content, says",
    [
        (b"", "classes.txt is empty"),
        (b"\n\n", "classes.txt is empty"),
        (b"a\n\nb\n", "classes.txt line 2: the name is empty"),
        (b"a\nb\n a\n", "classes.txt line 3: class a is on line 1 already"),
        (b"a\0b\n", "classes.txt line 1: it has a null byte"),
        (None, "classes.txt cannot be read: "),
    ],
)
def test_bad_names_of_classes_are_named(tmp_path, content, says):
    if content is None:
        (tmp_path / "classes.txt").symlink_to("nothing")
    else:
        (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_class_names(str(tmp_path / "val.txt"))


def numbered(labels, names=None):
    names, numbers = number_labels(labels, range(11, 11 + len(labels)), names, "x.csv")
    assert isinstance(names, list) and numbers.dtype == numpy.int32
    return names, numbers.tolist()


def test_labels_are_numbered():
    assert numbered(["dog", "cat", "dog", "10"]) == (["10", "cat", "dog"], [2, 1, 2, 0])
    assert numbered(["2", "0", "002"]) == (["0", "1", "2"], [2, 0, 2])
    assert numbered(["cat", "dog", "1"], ("dog", "cat")) == (["dog", "cat"], [1, 0, 1])
    assert numbered(["1", "10", "2"], ["1", "10", "2"]) == (["1", "10", "2"], [0, 1, 2])
    assert numbered(["01", "0"], ["0", "1"]) == (["0", "1"], [1, 0])
    assert numbered([], ["a"]) == (["a"], [])


@pytest.mark.parametrize(
    "labels, names, says",
    [
        (["cat", "dogs"], ["cat", "dog"], "line 12: label dogs is none of the 2 classes, .* 0 to 1; did you mean dog?"),
        (["cat", "2", "3"], ["cat", "dog"], "line 12: label 2 is none of the 2 classes"),
        (["-1"], ["cat", "dog"], "line 11: label -1 is none"),
        (["1", "2", "0"], ["1", "2", "3"], "line 13: label 0 is none"),  # of names from 1: no class by its number
        (["9" * 5000], ["cat"], "line 11: label 9+... is none"),
        (["0", "1300"], None, "line 12: label 1300 is no class number: 2 rows have numbers from 0 to at most 1199"),
        (["0", "10000000"] * 10**5, None, "line 12: .* at most 9999999"),
        (["0", "-1"], None, "line 12: label -1 is no class number"),
        (["9" * 5000], None, "line 11: label 9+... is no class number"),
    ],
)
def test_a_label_that_is_no_class_is_named_with_its_line(labels, names, says):
    with pytest.raises(UserError, match="x.csv " + says):
        numbered(labels, names)


def test_names_of_classes_may_be_many():
    names = [str(number) for number in range(10**6)]
    assert numbered(["999999", "5"], names) == (names, [999999, 5])
