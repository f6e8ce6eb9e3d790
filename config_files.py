"""Configuration files: YAML that holds options by name, read into words of a command line and written by each run."""

import difflib
import os

import yaml

from runtime.errors import UserError


def read_config(path):
    """The dictionary in the YAML file `path`."""
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError("--config %s cannot be read: %s" % (path, " ".join(str(error).split()))) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError("--config %s must hold lines of the form option: value" % path)
    return {str(name).replace("-", "_"): value for name, value in values.items()}


def words_of(parser, path):
    """{option: its words on a command line} of the file, so that one set of checks serves both."""
    actions = {}
    for action in parser._actions:
        if action.dest != "help" and "--" + action.dest.replace("_", "-") in action.option_strings:
            actions[action.dest] = action
    words = {}
    for name, value in read_config(path).items():
        if name not in actions or name == "config":
            near = difflib.get_close_matches(name, actions, 1)
            raise UserError(
                "--config %s: unknown option %s%s" % (path, name, "; did you mean %s?" % near[0] if near else "")
            )
        words[name] = _option_words(parser, path, actions[name], value)
    return words


def _option_words(parser, path, action, value):
    flag = "--" + action.dest.replace("_", "-")
    opposite = "--no-" + flag[2:]
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UserError("--config %s: %s must be true or false, not %r" % (path, action.dest, value))
        if not value and opposite not in parser._option_string_actions:
            return []
        return [flag] if value else [opposite]
    if value is None:
        if action.default is None:
            return []
        raise UserError("--config %s: %s has no value" % (path, action.dest))
    if isinstance(value, list) and action.nargs:
        return [flag] + [str(item) for item in value]
    if isinstance(value, (list, dict, bool)):
        raise UserError("--config %s: %s cannot be %r" % (path, action.dest, value))
    return ["%s=%s" % (flag, value)]


def with_full_paths(values):
    """The options `values` with absolute paths, so that they mean the same in any folder."""
    paths = {name: os.path.abspath(values[name]) for name in ("data_path", "output_dir", "resume") if values.get(name)}
    return dict(values, **paths)


def to_yaml(options):
    """A configuration file that reproduces the run."""
    values = with_full_paths(options.as_dict())
    for name in ("config", "eval_json", "local_rank"):
        del values[name]
    return yaml.safe_dump(values, sort_keys=True, default_flow_style=None)
