"""From ``--cfg FILE --opts KEY VALUE ...`` to one checked, frozen config."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from openvclip.config import upstream, values
from openvclip.config.defaults import flatten, get_cfg
from openvclip.config.extensions import KEY as EXTENSIONS
from openvclip.config.extensions import extension_keys, load_extensions
from openvclip.config.idle import refuse_idle
from openvclip.config.safe_yaml import MOST_BYTES, load_yaml
from openvclip.config.validate import find_problems
from openvclip.utils.command_line import Parser
from openvclip.utils.errors import ConfigError, describe_os_error
from openvclip.utils.files import read_text
from openvclip.utils.paths import is_address, local

BASE_KEY = "_BASE_"
MOST_BASES = 100  # that a file and its bases name, in all
_FLAGS = ("--cfg", "--init_method", "--shard_id", "--num_shards")
_PAIR = re.compile(r"^[A-Za-z_][\w.]*=")


def _build_parser() -> Parser:
    parser = Parser(
        usage="%(prog)s --cfg FILE [--opts] [KEY VALUE ...]",
        description="Train and test; every key is described in openvclip/config/defaults.py.",
    )
    add = parser.add_argument
    add("--cfg", dest="cfg_file", metavar="FILE", help="yaml file of settings")
    add("--opts", nargs="*", default=[], metavar="KEY VALUE",
        help="settings that replace the file's; KEY=VALUE works too")
    add("--init_method", default="tcp://localhost:9999",
        help="address where the run's processes meet (default %(default)s)")
    add("--shard_id", type=int, help="number of this machine; replaces SHARD_ID")
    add("--num_shards", type=int, help="number of machines; replaces NUM_SHARDS")
    return parser


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into flags with their values, and KEY VALUE pairs.

    By hand, because a value may begin with a dash (-1e-5), flags may follow the pairs, and
    ``--opts`` may be left out.
    """
    flags: list[str] = []
    pairs: list[str] = []
    index = 0
    while index < len(argv):
        token = argv[index]
        index += 1
        if token == "--opts":
            continue
        if token.startswith("-"):
            flags.append(token)
            if token in _FLAGS and index < len(argv):
                flags.append(argv[index])
                index += 1
        elif _PAIR.match(token):
            pairs.extend(token.split("=", 1))
        else:
            if index < len(argv) and argv[index] in (*_FLAGS, "--opts"):
                raise ConfigError(f"--opts: {token} has no value before {argv[index]}")
            pairs.extend(argv[index - 1 : index + 1])
            index += 1
    return flags, pairs


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line of ``tools/run_net.py``; None: this process's.

    Returns:
        ``cfg_file``; ``opts``, the KEY VALUE list for :func:`load_cfg`, in which ``--shard_id``
        and ``--num_shards`` have become SHARD_ID and NUM_SHARDS; ``init_method``; ``shard_id``
        and ``num_shards`` (None if not given).

    Raises:
        ConfigError: a flag is unknown or lacks its value, or ``--cfg`` is missing.
    """
    flags, pairs = _split(sys.argv[1:] if argv is None else argv)
    args = _build_parser().parse_args(flags)
    if not args.cfg_file:
        raise ConfigError("command line: --cfg FILE is missing, for example "
                          "--cfg configs/Synthetic/plain.yaml")
    args.opts = pairs
    for key, number in (("SHARD_ID", args.shard_id), ("NUM_SHARDS", args.num_shards)):
        if number is not None:
            args.opts = [*args.opts, key, str(number)]
    return args


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a settings file and the files that its ``_BASE_`` names, which it overrides.

    A ``_BASE_`` (one path or a list) is relative to the file that names it. Returns
    ``{"TRAIN.BATCH_SIZE": value, ...}``, values as yaml reads them.

    Raises:
        ConfigError: the file is missing, not regular, not yaml, not a mapping, or too large; a
            ``_BASE_`` is not a path, leads in a circle, or there are more than MOST_BASES in all.
    """
    return _BaseReader().read(str(path), ())


class _BaseReader:
    """Reads a file and its bases: each once, and no more than a person would write."""

    def __init__(self) -> None:
        self._known: dict[Path, dict[str, Any]] = {}
        self._named = 0

    def read(self, path: str, above: tuple[Path, ...]) -> dict[str, Any]:
        """Return the settings of ``path``, to which the files ``above`` led."""
        try:
            file = Path(os.path.expanduser(local(path))).resolve()
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such config file") from None
        except (OSError, ValueError, RuntimeError) as error:
            if isinstance(error, OSError) and is_address(path):
                raise ConfigError(describe_os_error(error)) from error
            raise ConfigError(f"{path!r}: no config file can have this name: {error}") from None
        if file in above:
            raise ConfigError(f"{path}: {BASE_KEY} leads back to the file itself")
        if file not in self._known:
            tree = _read_tree(path, file)
            bases = _list_bases(path, tree.pop(BASE_KEY, None))
            settings: dict[str, Any] = {}
            for base in bases:
                self._named += 1
                if self._named > MOST_BASES:
                    raise ConfigError(f"{path}: its {BASE_KEY} and those of its bases name more "
                                      f"than {MOST_BASES} files; write the settings into fewer")
                settings.update(self.read(_locate_base(base, path, file), (*above, file)))
            self._known[file] = {**settings, **flatten(tree)}
        return self._known[file]


def _locate_base(base: str, path: str, file: Path) -> str:
    """Return the path of a base, relative to the folder or address of the file that names it."""
    if is_address(base):
        return base
    if is_address(path):
        return os.path.normpath(Path(path).parent / base)
    return str(file.parent / os.path.expanduser(base))


def _read_tree(path: str, file: Path) -> dict[Any, Any]:
    try:
        tree = load_yaml(read_text(file, most=MOST_BYTES))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a config file: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds a {type(tree).__name__}, not KEY: value lines")
    return tree


def _list_bases(path: str, bases: Any) -> list[str]:
    paths = [bases] if isinstance(bases, str) else [] if bases is None else bases
    if not isinstance(paths, list) or not all(isinstance(base, str) for base in paths):
        raise ConfigError(f"{path}: {BASE_KEY} is {_show(bases)}; give the path of a "
                          "config file, or a list of such paths")
    return paths


def _pair_up(opts: Sequence[str]) -> dict[str, str]:
    """Return {key: text} for a KEY VALUE list; the last of equal keys counts."""
    blank = [number for number, key in enumerate(opts[0::2]) if not str(key).strip()]
    if blank:
        raise ConfigError(f"--opts: the key of pair {blank[0] + 1} is blank; does a line of the "
                          "script end in a backslash followed by a space?")
    if len(opts) % 2:
        raise ConfigError(f"--opts: {opts[-1]} has no value (keys and values must come in pairs)")
    return dict(zip(opts[0::2], opts[1::2], strict=True))


def nearest_keys(key: str, known: Sequence[str]) -> list[str]:
    """Return the names that an unknown key most likely means, best first, at most three."""
    wanted = key.upper()
    last = wanted.rsplit(".", 1)[-1]
    whole = difflib.get_close_matches(wanted, known, n=3, cutoff=0.75)
    same_name = [name for name in known if name.rsplit(".", 1)[-1] == last]
    same_name.sort(key=lambda name: -difflib.SequenceMatcher(None, wanted, name).ratio())
    by_name = {name.rsplit(".", 1)[-1]: name for name in known}
    close_name = [by_name[n] for n in difflib.get_close_matches(last, by_name, n=1, cutoff=0.75)]
    loose = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    exact = [name for name in known if name == wanted]
    return list(dict.fromkeys([*exact, *same_name, *whole, *close_name, *loose]))[:3]


def _show(value: Any) -> str:
    """Show a value in a message line, however long it is."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _upstream_problem(key: str, value: Any) -> str | None:
    """Check a key that only upstream reads; return None if it may be dropped."""
    if key in upstream.INERT:
        default = upstream.INERT[key]
        try:
            values.convert(key, value, default)
        except TypeError:
            return _type_problem(key, value, default)
        return None
    table = upstream.OFF if key in upstream.OFF else upstream.MODEL_KEYS
    if key not in table:
        return None  # a detail of a section that is off
    off = table[key]
    try:
        same = values.convert(key, value, off) == off
    except TypeError:
        same = False
    if same:
        return None
    return f"{key} is {_show(value)}: not implemented; only {off!r} is accepted"


def _type_problem(key: str, value: Any, default: Any) -> str:
    parsed = values.parse_text(value) if isinstance(value, str) else value
    kind = type(parsed).__name__
    if isinstance(parsed, str) and "\0" in parsed:
        return f"{key} is {_show(value)}; it has a zero byte, which no path or name has"
    return f"{key} is {_show(value)} ({kind}); {values.expected(key, default)} is expected"


def _unknown_problem(key: str, value: Any, known: dict[str, Any]) -> str:
    section = key.split(".", 1)[0]
    if section in upstream.MODELS:
        return f"{key} ({_show(value)}): belongs to a PySlowFast model that is not implemented"
    near = nearest_keys(key, [*known, *upstream.OFF])
    hint = f"nearest: {', '.join(near)}" if near else "see openvclip/config/defaults.py"
    return f"{key} ({_show(value)}) is not a known key; {hint}"


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        cfg = cfg[section]
    cfg[name] = value


def merge(cfg: CfgNode, settings: dict[str, Any], where: str) -> list[str]:
    """Set ``{"TRAIN.BATCH_SIZE": value}`` in ``cfg``; return a line for each that cannot be.

    Every line begins with ``where``: the file, or ``--opts``.
    """
    defaults = flatten(get_cfg())
    parents = [key.split(".")[:-1] for key in defaults]
    sections = {".".join(names[:depth + 1]) for names in parents for depth in range(len(names))}
    problems: list[str] = []
    for key, value in settings.items():
        problem = None
        if key in defaults:
            try:
                _set(cfg, key, values.convert(key, value, defaults[key]))
            except TypeError:
                problem = _type_problem(key, value, defaults[key])
        elif key in upstream.OFF or key in upstream.INERT or key in upstream.MODEL_KEYS:
            problem = _upstream_problem(key, value)
        elif key in sections or key in upstream.MODELS or key in upstream.SECTIONS:
            if value is not None:
                problem = f"{key} is a section; give it keys, not {_show(value)}"
        elif upstream.section_of(key) is None:
            problem = _unknown_problem(key, value, defaults)
        if problem:
            problems.append(f"{where}: {problem}")
    return problems


def _raise(problems: list[str]) -> None:
    if len(problems) == 1:
        raise ConfigError(problems[0])
    if problems:
        lines = "".join(f"\n  - {problem}" for problem in problems)
        raise ConfigError(f"{len(problems)} settings cannot be used:{lines}")


def default_output_dir(cfg_file: str | Path | None) -> str:
    """Return the OUTPUT_DIR of a run that does not set one: ``output/<name of its config>``."""
    name = Path(cfg_file).stem.strip(".") if cfg_file is not None else ""
    return f"output/{name}" if name else get_cfg().OUTPUT_DIR


def load_cfg(cfg_file: str | Path | None = None, opts: Sequence[str] = ()) -> CfgNode:
    """Return the defaults, changed by a yaml file and then by KEY VALUE pairs.

    If neither sets OUTPUT_DIR, it is :func:`default_output_dir`'s. Modules that EXTENSIONS names
    are imported first: what they declare and register is available.

    Args:
        cfg_file: yaml file of settings, or None; it may name files to start from in ``_BASE_``.
        opts: ``["TRAIN.BATCH_SIZE", "8", ...]``; values are Python or yaml literals.

    Returns:
        A frozen config in which every rule of ``validate.py`` holds, without settings that have no
        effect although the user asked for them (``idle.py``).

    Raises:
        ConfigError: names every setting that cannot be used, one per line.
    """
    in_file = read_yaml(str(cfg_file)) if cfg_file is not None else {}
    in_opts = _pair_up(list(opts))
    load_extensions(in_opts.get(EXTENSIONS, in_file.get(EXTENSIONS)))
    cfg = get_cfg()
    cfg.OUTPUT_DIR = default_output_dir(cfg_file)
    _raise(merge(cfg, in_file, str(cfg_file)) + merge(cfg, in_opts, "--opts"))
    _raise(find_problems(cfg))
    _raise(refuse_idle(cfg, in_file, in_opts, str(cfg_file)))
    cfg.freeze()
    return cfg


def take_opts(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide a tool's command line into its own arguments and the pairs behind ``--opts``."""
    if "--opts" not in argv:
        return list(argv), []
    begin = list(argv).index("--opts")
    end = next((i for i in range(begin + 1, len(argv)) if argv[i].startswith("--")), len(argv))
    return [*argv[:begin], *argv[end:]], list(argv[begin + 1:end])


def load_opts(opts: Sequence[str]) -> CfgNode:
    """Return the config of a tool whose ``--opts`` take EXTENSIONS and the keys these declare.

    Raises:
        ConfigError: as :func:`load_cfg`; or a key that the tool does not read.
    """
    cfg = load_cfg(None, opts)
    for key in opts[::2]:
        if key not in extension_keys and key != EXTENSIONS:
            raise ConfigError(f"--opts: {key} has no effect here; this tool takes {EXTENSIONS} and "
                              "the keys that those modules declare")
    return cfg
