"""Find the commands and the Python of the documentation, and check them without running them.

A comment directly above a block names what it needs beyond the package (``docs/hooks/needs.py``):
``<!-- needs: AVA, GPU -->``, or ``<!-- needs: network for nima -->`` for its lines with ``nima``.
"""

import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / 'docs' / 'hooks'))
from needs import MARK, NEEDS, names_of  # noqa: E402

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
# Needs that the tests replace: by small data sets, tiny weights and options for the CPU.
REPLACED = {'AVA', 'PARA', 'AADB', 'CLIP', 'GPU'}
FENCE = re.compile(r'^( *)```(\S*)[^\n]*\n(.*?)^\1```$', re.M | re.S)
SHELL_SYNTAX = re.compile(r'[|;<>`$]')
# Programs of others, in marked blocks; their options are not checked.
OTHER_PROGRAMS = {
    '.', 'git', 'hf', 'lint-imports', 'mkdocs', 'mypy', 'pip', 'pre-commit', 'ray', 'ruff',
}  # fmt: skip
PYIQA_OPTIONS = {'--auto_resume', '--debug', '--force_yml', '--set'}  # of amhp train and amhp test


@dataclass(frozen=True)
class Command:
    """One command or Python block of a page, with the names of what it needs."""

    place: str
    text: str
    needs: frozenset[str]
    python: bool = False

    @property
    def runs(self) -> bool:
        """Whether the tests run it."""
        return self.needs <= REPLACED

    @property
    def words(self) -> list[str]:
        """The words that a shell would see, without the comment."""
        return shlex.split(self.text, comments=True)


def commands(page: Path) -> list[Command]:
    """Find all commands of a page, in their order.

    Raises:
        ValueError: a mark that is not directly above a block, or that names an unknown need.
    """
    text, found, used = page.read_text(encoding='utf-8'), [], 0
    for fence in FENCE.finditer(text):
        marks = list(_marks_above(text[: fence.start()]))
        used += len(marks)
        if fence[2] not in ('sh', 'python'):
            continue
        line = text.count('\n', 0, fence.start()) + 2
        for offset, code in _parts(fence[3], fence[2]):
            wanted = {n for m in marks if not m['word'] or m['word'] in code for n in names_of(m)}
            place = f'{page.name}:{line + offset}'
            found.append(Command(place, code, frozenset(wanted), fence[2] == 'python'))
    every = list(MARK.finditer(FENCE.sub('', text)))
    if len(every) != used:
        raise ValueError(f'{page.name}: {len(every)} marks, {used} of them directly above a block')
    if unknown := {name for mark in every for name in names_of(mark)} - NEEDS.keys():
        raise ValueError(f'{page.name}: needs {sorted(unknown)}, expected some of {sorted(NEEDS)}')
    return found


def _marks_above(text: str) -> Iterator[re.Match]:
    for line in reversed(text.splitlines()):
        if not (mark := MARK.fullmatch(line)):
            return
        yield mark


def _parts(code: str, language: str) -> Iterator[tuple[int, str]]:
    """Yield a Python block whole, a shell block command by command, with line numbers."""
    if language == 'python':
        yield 0, code
        return
    joined = re.sub(r'\\\n\s*', ' ', code)
    for offset, line in enumerate(joined.splitlines()):
        if shlex.split(line, comments=True):
            for command in line.split('&&'):
                yield offset, command.strip()


def check(command: Command) -> None:
    """Check that a command, its options and its files exist.

    Raises:
        AssertionError: the reason why the command cannot run.
    """
    if command.python:
        compile(command.text, command.place, 'exec')
        return
    words = _without_settings(command.words)
    program = words[0].rpartition('/')[2]
    if program == 'amhp':
        check_amhp(words[1:])
    elif program == 'torchrun':
        at = words.index('-m')
        assert words[at + 1] == 'pyiqa_amhp', words
        check_amhp(words[at + 2 :])
    elif program == 'python':
        _check_python(words[1:])
    else:
        assert program in OTHER_PROGRAMS, f'{program}: unknown program'
    if program == 'pip':
        _check_extras(command.text)


def _without_settings(words: list[str]) -> list[str]:
    while re.match(r'^[A-Z_]+=', words[0]):
        words = words[1:]
    return words


def check_amhp(words: list[str]) -> None:
    """Check that ``amhp`` has such a command with these options."""
    name, command, words = find_command(words)
    try:
        rest = command.make_context(name, list(words)).args
    except Exception as error:
        raise AssertionError(f'{name} {shlex.join(words)}: {error}') from error
    unknown = [word for word in rest if word.startswith('-') and word not in PYIQA_OPTIONS]
    assert not unknown, f'{name}: {unknown}'
    for word in words:
        if word.startswith('options/'):
            assert (ROOT / word).is_file(), f'{word}: no such file'


def find_command(words: list[str]) -> tuple:
    """Find a command of ``amhp``; gives its name, the command, and the words after its name."""
    from typer.main import get_command

    from pyiqa_amhp.cli.main import app

    command, name = get_command(app), 'amhp'
    while getattr(command, 'commands', None):
        assert words and words[0] in command.commands, f'{name} has no command {words[:1]}'
        name, command, words = f'{name} {words[0]}', command.commands[words[0]], words[1:]
    return name, command, words


def mentions(page: Path) -> list[str]:
    """Find the commands that the text of a page names, such as `amhp weights add FILE`."""
    text = FENCE.sub('', page.read_text(encoding='utf-8'))
    return [' '.join(found.split()) for found in re.findall(r'`(amhp [a-z][^`]*)`', text)]


def check_mention(text: str) -> None:
    """Check that ``amhp`` has such a command and such options; arguments may be left out.

    Raises:
        AssertionError: an unknown command or option.
    """
    name, command, words = find_command(text.split()[1:])
    known = {opt for param in command.params for opt in param.opts} | PYIQA_OPTIONS | {'--help'}
    for word in words:
        option = word.partition('=')[0]
        assert not re.match(r'--?[a-z]', option) or option in known, f'{name}: {option}'


def _check_python(words: list[str]) -> None:
    if words[:2] == ['-m', 'pyiqa_amhp']:
        check_amhp(words[2:])
    elif words[0] == '-m':
        assert find_spec(words[1]), f'{words[1]}: no such module'
    else:
        script = ROOT / words[0]
        assert script.is_file(), f'{script}: no such file'
        sources = ''.join(file.read_text(encoding='utf-8') for file in script.parent.glob('*.py'))
        for word in words[1:]:
            assert not word.startswith('--') or f"'{word}'" in sources, f'{words[0]}: {word}'


def _check_extras(text: str) -> None:
    project = (ROOT / 'pyproject.toml').read_text(encoding='utf-8')
    table = project.partition('[project.optional-dependencies]\n')[2].partition('\n[')[0]
    known = set(re.findall(r'^(\w+) = ', table, re.M))
    for names in re.findall(r'\[([\w,]+)\]', text):
        assert set(names.split(',')) <= known, f'{text}: expected extras of {sorted(known)}'
