"""What goes wrong in days of training: after each fault the run ends on the weights of an undisturbed one, or says
what is wrong, with an exit status, and leaves nothing behind."""

import os
import random
import signal
import socket
import time

import pytest
import torch
from fault_runs import finish, resume, wait_for_line
from processes import children_of, wait_for
from small_runs import assert_same_result, log_of
from warm_runs import current_torch, run_main, start_main, words_for

from checkpoints import loading, store

pytestmark = pytest.mark.usefixtures("nothing_is_left")
LATEST = store.LATEST


# ---- killed


@current_torch
def test_twenty_random_kills(data, whole, tmp_path):
    """SIGKILL to one rank, to all, or to a loader's process, while every file takes long to write."""
    reference, cut = whole(2, "--epochs=6"), str(tmp_path / "cut")
    words = words_for(data, cut, "--epochs=6", "--checkpoint-steps=1", "--num-workers=1")
    dice = random.Random(7)
    victims = ["all"] * 11 + ["rank"] * 6 + ["loader"] * 3
    dice.shuffle(victims)
    for victim in victims:
        run = start_main(words, 2, {"FAULT": "slow-save:0.2"})
        replaced = checkpoints_since(run, os.path.join(cut, LATEST))
        saves = dice.choice((0, 1, 1, 2))
        wait_for(lambda run=run, replaced=replaced, saves=saves: run.poll() is not None or replaced() >= saves)
        time.sleep(dice.uniform(0, 0.4) if saves else dice.uniform(0.2, 1.0))
        kill(run, victim, dice)
        latest = os.path.join(cut, LATEST)
        if os.path.exists(latest):
            loading.load(latest)  # whole at any moment, not only repaired from the one before
    out = resume(data, cut, reference, 2, "--epochs=6", "--checkpoint-steps=1")
    assert "is tried" not in out


def checkpoints_since(run, path):
    """A function that counts how often the file `path` has been replaced."""
    seen = set()

    def count():
        try:
            status = os.stat(path)
            seen.add((status.st_ino, status.st_mtime_ns))
        except OSError:
            pass
        return len(seen) - 1

    count()
    return count


def kill(run, victim, dice):
    ranks = children_of(run.pid) if run.poll() is None else []
    loaders = [child for rank in ranks for child in children_of(rank)]
    if victim == "loader" and loaders:
        kill_process(dice.choice(loaders))
        time.sleep(dice.uniform(0, 1))
    if victim == "rank" and ranks:
        kill_process(dice.choice(ranks))
        assert run.communicate(timeout=300) and run.returncode in (137, 0)
        return
    try:
        os.killpg(run.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    run.communicate(timeout=300)


def kill_process(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@pytest.mark.parametrize("nproc", [1, 2])
def test_a_lost_loader_process_is_replaced(data, whole, tmp_path, nproc):
    words = words_for(data, tmp_path / "out", "--num-workers=2")
    run = start_main(words, nproc, {"FAULT": "slow:0.1"})
    wait_for_line(run, "Epoch: [0]  [")
    for loader in children_of(children_of(run.pid)[-1]):
        os.kill(loader, signal.SIGKILL)
    status, out, err = finish(run, is_quiet=False)  # Python's queue may tell of a pipe that nobody reads any more
    assert status == 0, err
    if nproc == 1:  # elsewhere it is another rank that says so
        assert "a loader process was lost" in out and "new ones are started" in out
    assert_same_result(str(tmp_path / "out"), whole(nproc))


def test_a_rank_that_is_killed_ends_the_run_with_its_status(data, tmp_path):
    run = start_main(words_for(data, tmp_path / "out", "--epochs=300"), 2)
    wait_for_line(run, "Epoch: [1]")
    os.kill(children_of(run.pid)[1], signal.SIGKILL)
    status, _, err = finish(run)
    assert status == 137 and "process 1 was ended by signal 9" in err


def test_the_best_accuracy_outlives_a_stop(data, tmp_path):
    out = str(tmp_path / "out")
    assert run_main(words_for(data, out, "--epochs=1"))[0] == 0
    loaded = loading.load(os.path.join(out, LATEST))
    store.save(dict(loaded, max_accuracy=100.0, best_epoch=0), out, True)
    status, text, err = run_main(words_for(data, out))
    assert status == 0 and "Max accuracy: 100.00%" in text, err
    best = loading.load(os.path.join(out, store.BEST))
    assert best["epoch"] == 0 and loading.load(os.path.join(out, LATEST))["max_accuracy"] == 100.0


# ---- asked to stop


@pytest.mark.parametrize(
    "name, nproc, receiver",
    [("SIGTERM", 1, "launcher"), ("SIGTERM", 2, "launcher"), ("SIGTERM", 2, "last rank"), ("SIGTERM", 2, "group")]
    + [("SIGUSR1", 2, "launcher"), ("SIGINT", 2, "group"), ("SIGINT", 1, "group"), ("SIGHUP", 1, "launcher")],
)
def test_a_signal_ends_the_run_at_the_next_step(data, whole, tmp_path, name, nproc, receiver):
    out, number = str(tmp_path / "out"), getattr(signal, name)
    run = start_main(words_for(data, out, "--num-workers=1"), nproc, {"FAULT": "slow:0.1"})
    wait_for_line(run, "Epoch: [1]  [")
    send(run, number, receiver)
    status, _, err = finish(run, 30)
    assert status == 128 + number
    assert [line for line in err.splitlines() if "stopped by %s; run the same command again to resume" % name in line]
    loaded = loading.load(os.path.join(out, LATEST))
    assert loaded["epoch"] == 0 and loaded["step"] > 0
    resume(data, out, whole(nproc), nproc)


def send(run, number, receiver):
    if receiver == "group":  # as a terminal does
        os.killpg(run.pid, number)
    else:
        os.kill(run.pid if receiver == "launcher" else children_of(run.pid)[-1], number)


@pytest.mark.parametrize("nproc, receiver", [(1, "launcher"), (2, "last rank")])
def test_a_signal_during_evaluation(data, whole, tmp_path, nproc, receiver):
    out = str(tmp_path / "out")
    run = start_main(words_for(data, out), nproc, {"FAULT": "slow-evaluation:0.7"})
    wait_for_line(run, "Averaged stats")
    send(run, signal.SIGTERM, receiver)
    status, _, _ = finish(run, 30)
    assert status == 143
    loaded = loading.load(os.path.join(out, LATEST))
    assert loaded["epoch"] == -1 and loaded["step"] == 12 // nproc and "stats" in loaded["epoch_state"]
    resume(data, out, whole(nproc), nproc)


@current_torch
def test_a_second_signal_ends_a_run_that_does_not_come_to_a_step(data, tmp_path):
    run = start_main(words_for(data, tmp_path / "out"), 1, {"FAULT": "hang:0:1:0"})
    wait_for_line(run, "Max accuracy")
    for _ in range(2):
        os.kill(run.pid, signal.SIGTERM)
        time.sleep(3.5)
    status, _, _ = finish(run, 5)
    assert status == 143
    assert loading.load(str(tmp_path / "out" / LATEST))["epoch"] == 0


# ---- hanging


@current_torch
@pytest.mark.parametrize("fault, named", [("hang:1:1:2", "rank 1 hangs"), ("hang:0:1:2", "rank 0 hangs")])
def test_a_rank_that_hangs_is_named(data, tmp_path, fault, named):
    run = start_main(words_for(data, tmp_path / "out", "--dist-timeout=5"), 2, {"FAULT": fault})
    wait_for_line(run, "Max accuracy")
    started = time.time()
    status, _, err = finish(run, 30)
    assert status == 1 and time.time() - started < 12
    assert len(err.splitlines()) == 1 and named in err and "--dist-timeout" in err and "epoch 1, step" in err


@current_torch
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_stopped_is_named(data, tmp_path, rank):
    run = start_main(words_for(data, tmp_path / "out", "--dist-timeout=5", "--epochs=300"), 2)
    wait_for_line(run, "Max accuracy")
    os.kill(children_of(run.pid)[rank], signal.SIGSTOP)
    started = time.time()
    status, _, err = finish(run, 60)
    assert status == 1 and time.time() - started < 25
    lines = [line for line in err.splitlines() if not line.startswith("launch.py")]
    assert len(lines) == 1 and "rank %d does not respond" % rank in lines[0]


@current_torch
def test_a_process_that_never_comes(data, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    environ.update(MASTER_PORT=str(port), ALONE="1")
    status, _, err = run_main(words_for(data, tmp_path / "out", "--dist-timeout=3"), 1, environ)
    assert status == 1
    assert "2 processes did not all connect to 127.0.0.1:%d within 3 s (--dist-timeout)" % port in err


def test_a_port_in_use(data, tmp_path):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen(1)
        port = str(other.getsockname()[1])
        words = words_for(data, tmp_path / "out", "--epochs=1")
        status, _, err = run_main(words, 2, {"MASTER_PORT": port})
        assert status == 0 and "MASTER_PORT %s cannot be used" % port in err and "is used instead" in err
        environ = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "ALONE": "1"}
        status, _, err = run_main(words, 1, dict(environ, MASTER_PORT=port))
        assert status == 2 and "127.0.0.1:%s is in use by another program" % port in err


# ---- not finite


@pytest.mark.parametrize("kind", ["nan", "inf"])
def test_a_loss_that_is_not_finite_stops_all_ranks(data, whole, tmp_path, kind):
    out = str(tmp_path / "out")
    status, text, err = run_main(words_for(data, out), 2, {"FAULT": kind + ":1:1:2"})
    assert status == 1 and len(err.splitlines()) == 1
    assert "the loss is not finite on rank 1 at epoch 1, step 2: nothing was saved since" in err
    facts = loading.load(os.path.join(out, store.NOT_FINITE))["not_finite"]
    assert (facts["epoch"], facts["step"], facts["ranks"]) == (1, 2, [1])
    assert len(facts["indices"][1]) == 4 and [os.path.exists(path) for path in facts["files"][1]] == [True] * 4
    resume(data, out, whole(2), 2)


def test_a_loss_that_is_not_finite_is_skipped_by_all_ranks(data, tmp_path):
    """The skipping run ends with sound weights, and a resumed one with the same."""
    first, cut = str(tmp_path / "first"), str(tmp_path / "cut")
    fault = {"FAULT": "nan:1:1:2"}
    status, text, err = run_main(words_for(data, first, "--on-nonfinite=skip"), 2, fault)
    assert status == 0, err
    assert "not finite on rank 1 at epoch 1, step 2: this step is skipped (images {1: [" in text
    assert [row["train_steps_skipped"] for row in log_of(first)] == [0, 1, 0]
    loaded = loading.load(os.path.join(first, LATEST))
    for part in ("model", "model_ema"):
        assert all(torch.isfinite(value).all() for value in loaded[part].values() if value.is_floating_point())
    run = start_main(words_for(data, cut, "--on-nonfinite=skip"), 2, {"FAULT": "nan:1:1:2,slow:0.1"})
    wait_for_line(run, "this step is skipped")
    os.kill(run.pid, signal.SIGTERM)
    assert finish(run)[0] == 143
    assert run_main(words_for(data, cut, "--on-nonfinite=skip"), 2, fault)[0] == 0
    assert_same_result(cut, first)


def test_skipping_ends_where_nothing_else_is_left(data, tmp_path):
    words = words_for(data, tmp_path / "out", "--on-nonfinite=skip", "--epochs=30")
    status, _, err = run_main(words, 2, {"FAULT": "nan:0:*:*"})
    assert status == 1 and len(err.splitlines()) == 1 and "as in the 24 steps before" in err
