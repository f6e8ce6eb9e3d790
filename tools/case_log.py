"""Turn a run's JSON into what the ModelZoo contract asks of a wrapper: its last lines and the case's log file.

`python tools/case_log.py --result JSON --folder DIR --suffix acc|perf|eval --seconds N`
"""

import argparse
import json
import os
import platform

NETWORK = "SPACH-SMLP"


def training_rows(result, seconds):
    """(key, value) of the log of a training case: the keys of this model's wrappers, then those of most others."""
    fps, loss = "%.2f" % (result["images_per_second"] or 0), "%.4f" % result["train_loss"]
    accuracy = "%.2f" % result["max_accuracy"]
    return [
        ("AvgFPS", fps),
        ("MinLoss", "%.4f" % result["min_train_loss"]),
        ("MaxAccuracy", accuracy),
        ("E2ETrainingTime", seconds),
        ("ActualFPS", fps),
        ("ActualLoss", loss),
        ("TrainAccuracy", accuracy),
        ("TrainingTime", "%.2f" % (1000 * result["world_size"] * result["batch_size"] / max(float(fps), 1e-9))),
    ]


def evaluation_rows(result, seconds):
    """(key, value) of the log of an evaluation case."""
    accuracy = "%.3f" % result["acc1"]
    return [("ActualAccuracy", accuracy), ("TrainAccuracy", accuracy), ("E2EEvalTime", seconds)]


def closing_lines(suffix, result, seconds, folder):
    """What the wrapper prints last."""
    lines = ["------------------ Final result ------------------"]
    if suffix == "eval":
        lines.append("Final Eval Accuracy : %.3f" % result["acc1"])
        lines.append("E2E Evaluation Duration sec : %s" % seconds)
        lines.append("Acc@1 %.3f on %d images, logs in %s" % (result["acc1"], result["images"], folder))
        return lines
    lines.append("Final Performance FPS : %.2f" % (result["images_per_second"] or 0))
    lines.append("Final Performance images/sec : %.2f" % (result["images_per_second"] or 0))
    lines.append("Final Train Accuracy : %.2f" % result["max_accuracy"])
    lines.append("E2E Training Duration sec : %s" % seconds)
    return lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--result", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--suffix", required=True, choices=["acc", "perf", "eval"])
    parser.add_argument("--seconds", required=True)
    options = parser.parse_args()
    with open(options.result, encoding="utf-8") as file:
        result = json.load(file)
    case = "%s_bs%d_%dp_%s" % (NETWORK, result["batch_size"], result["world_size"], options.suffix)
    rows = [
        ("Network", NETWORK),
        ("RankSize", result["world_size"]),
        ("BatchSize", result["batch_size"]),
        ("DeviceType", platform.machine()),
        ("CaseName", case),
    ]
    rows += (evaluation_rows if options.suffix == "eval" else training_rows)(result, options.seconds)
    with open(os.path.join(options.folder, case + ".log"), "w", encoding="utf-8") as file:
        file.writelines("%s = %s\n" % row for row in rows)
    print("\n".join(closing_lines(options.suffix, result, options.seconds, options.folder)))


if __name__ == "__main__":
    main()
