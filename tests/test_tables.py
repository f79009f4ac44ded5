"""Tables as CSV, Markdown, LaTeX and on the terminal: complete, and each row with its origin."""

import csv
import io

import numpy as np
import pytest
from rich.console import Console

from pyiqa_amhp.evaluation.measures import Value, evaluate, range_map
from pyiqa_amhp.evaluation.published import published_rows
from pyiqa_amhp.evaluation.tables import (
    Row,
    compare,
    difference_row,
    error_row,
    measured_row,
    to_csv,
    to_latex,
    to_markdown,
    to_terminal,
    write_tables,
)


@pytest.fixture(scope='module')
def measured():
    rng = np.random.default_rng(0)
    rated = rng.normal(5, 1, 60)
    return measured_row('AMHP', evaluate(rated + 1, rated, threshold=5), 'comments', 0.5)


@pytest.fixture(scope='module')
def mapped():
    rng = np.random.default_rng(1)
    rated = rng.normal(5, 1, 60)
    mapping = range_map((0, 20), (1, 10))
    return measured_row(
        'other_one', evaluate(2 * rated, rated, threshold=5, mapping=mapping), 'none'
    )


@pytest.fixture(scope='module')
def rows(measured, mapped):
    return [*compare(measured, published_rows('table1')[-1]), mapped, error_row('a|b', 'no\nway')]


def cells(markdown):
    lines = [line for line in markdown.splitlines() if line.startswith('| ')]
    return [[cell.strip() for cell in line.strip('|').split(' | ')] for line in lines]


def test_a_difference_is_measured_minus_published(measured):
    ours, theirs, difference = compare(measured, published_rows('table1')[-1])
    assert (ours.kind, theirs.kind, difference.kind) == ('measured', 'published', 'difference')
    for key in ('acc', 'srcc', 'plcc', 'mse'):
        expected = ours.values[key].value - theirs.values[key].value
        assert difference.values[key].value == pytest.approx(expected)
    assert 'emd1' not in difference.values  # not measured here
    assert 'krcc' not in difference.values  # not published


def test_bounds_and_mapped_values_have_no_difference(measured, mapped):
    [aesformer] = [row for row in published_rows('newer') if row.method == 'AesFormer']
    assert difference_row(measured, aesformer).values == {}
    assert set(difference_row(mapped, published_rows('table1')[-1]).values) == {'srcc', 'plcc'}


def test_each_format_has_method_origin_and_text_of_every_row(rows):
    expected = [
        ['AMHP', 'measured here', 'comments'],
        ['AMHP', 'published (AMHP paper, Table 1)', 'comments'],
        ['AMHP', 'difference (measured - published)', ''],
        ['other_one', 'measured here', 'none'],
        ['a|b', 'measured here', '-'],
    ]
    table = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [[r['method'], r['origin'], r['text_source']] for r in table] == expected
    markdown = [[c.replace('\\|', '|') for c in line[:3]] for line in cells(to_markdown(rows))[2:]]
    assert markdown == expected
    tex = [line.split(' & ')[:3] for line in to_latex(rows).splitlines() if ' & ' in line][1:]
    assert [[c.replace('\\_', '_') for c in line] for line in tex] == expected


def test_each_format_has_the_same_values(rows, measured):
    srcc = measured.values['srcc']
    text = f'{srcc.value:.3f} [{srcc.low:.3f}, {srcc.high:.3f}]'
    assert text in to_markdown(rows) and text in to_latex(rows)
    [row] = csv.DictReader(io.StringIO(to_csv([measured])))
    assert [float(row[f'srcc{end}']) for end in ('', '_low', '_high')] == [
        srcc.value, srcc.low, srcc.high,
    ]  # fmt: skip
    assert row['emd1_reason'] == 'no distributions' and row['seconds_per_image'] == '0.5'


def test_all_lines_of_a_table_have_the_same_number_of_cells(rows):
    lines = cells(to_markdown(rows))
    assert len({len(line) for line in lines}) == 1
    tex = [line for line in to_latex(rows).splitlines() if line.endswith(r'\\')]
    widths = {line.count(' & ') for line in tex if 'multicolumn' not in line}
    [failed] = [line for line in tex if 'multicolumn' in line]
    assert widths == {len(lines[0]) - 1}
    assert rf'\multicolumn{{{len(lines[0]) - 3}}}{{l}}{{not measured: no way}}' in failed


def test_the_csv_always_has_the_same_columns(measured):
    assert to_csv([measured]).splitlines()[0] == to_csv([error_row('x', 'y')]).splitlines()[0]


def test_footnotes_explain_intervals_maps_missing_values_and_sources(rows):
    text = to_markdown(rows, 'Title', ['of the data'])
    assert text.startswith('## Title\n') and '- of the data\n' in text
    assert 'In brackets: 95% bootstrap interval' in text
    assert '* after a linear mapping' in text and 'mapped 0..20 to 1..10' in text
    assert 'AMHP: EMD1, EMD2: no distributions' in text
    assert 'ACM Multimedia 2024' in text
    plain = to_markdown([Row('x', values={'srcc': Value(0.5)})])
    assert 'bootstrap' not in plain and 'mapping' not in plain


def test_only_mapped_values_are_marked(mapped):
    line = cells(to_markdown([mapped]))[-1]
    marked = [i for i, cell in enumerate(line) if '*' in cell]
    header = cells(to_markdown([mapped]))[0]
    assert [header[i].split()[0] for i in marked] == ['ACC', 'MSE']


def test_a_terminal_of_80_columns_shows_every_method_and_each_reason_once(rows):
    console = Console(width=80, file=io.StringIO())
    console.print(to_terminal([*rows, error_row('c', 'no way')], 'Title', width=80))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    words = ' '.join(' '.join(lines).split())
    assert 'AMHP measured comments' in words and 'AMHP published comments' in words
    assert 'not measured: a|b, c: no way' in words
    assert 'KRCC' not in words
    console.print(to_terminal(rows))
    assert 'KRCC' in console.file.getvalue()


def test_special_characters_in_the_name_of_a_method_are_escaped():
    row = Row(r'a & b_{c} \ 50% #1 ~^ $x$ [red]', values={'srcc': Value(0.5)})
    assert r'a \& b\_\{c\} \textbackslash{} 50\% \#1' in to_latex([row])
    console = Console(width=80, file=io.StringIO())
    console.print(to_terminal([row]))
    assert '[red]' in console.file.getvalue()


def test_write_tables_writes_three_files_with_one_stem(rows, tmp_path):
    paths = write_tables(rows, tmp_path / 'new' / 'results', 'Title', ['of the data'])
    assert [path.name for path in paths] == ['results.csv', 'results.md', 'results.tex']
    assert (tmp_path / 'new' / 'results.csv').read_text(encoding='utf-8') == to_csv(rows)
    tex = (tmp_path / 'new' / 'results.tex').read_text(encoding='utf-8')
    assert r'\caption{Title}' in tex and 'of the data' in tex
