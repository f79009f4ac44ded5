"""Published results: as printed in their sources, and marked as published."""

import re

import pytest
import yaml

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.evaluation.measures import MEASURES
from pyiqa_amhp.evaluation.published import FILE, published_data, published_rows, published_tables

CONTENT = yaml.safe_load(FILE.read_text(encoding='utf-8'))
KEYS = {key for key, _, _ in MEASURES}
TEXTS = {'none', 'comments', 'labels', 'predicted'}


def test_all_tables_of_the_paper_and_newer_results_are_listed():
    assert list(published_tables()) == ['table1', 'table2', 'table3', 'table4', 'table5', 'newer']
    assert [len(published_rows(f'table{i}')) for i in range(1, 6)] == [16, 8, 12, 4, 6]
    assert published_data('table3') == 'aadb'


def test_every_row_is_marked_as_published_with_its_source():
    for name in published_tables():
        for row in published_rows(name):
            assert row.kind == 'published' and row.origin.startswith('published (')
            assert row.source and row.values


def test_acc_is_a_share_as_in_measured_rows():
    amhp = published_rows('table1')[-1]
    assert amhp.method == 'AMHP' and amhp.values['acc'].value == 0.845
    assert amhp.values['srcc'].value == 0.804


def test_every_number_of_tables_1_to_4_is_in_the_paper(shared_data):
    text = (shared_data.parent / 'paper' / 'amhp_paper.txt').read_text()
    for name in ('table1', 'table2', 'table3', 'table4'):
        for row in published_rows(name):
            numbers = [
                f'{value.value * 100:.1f}' if key == 'acc' else f'{value.value:.3f}'
                for key, value in row.values.items()
            ]
            printed = r'[ \-]+'.join(map(re.escape, numbers))
            assert re.search(rf'^{re.escape(row.method)}[ \-]+{printed}[ \-]*$', text, re.M), row


def test_every_number_of_table_5_is_in_the_paper_in_its_order(shared_data):
    text = (shared_data.parent / 'paper' / 'amhp_paper.txt').read_text()
    printed = re.findall(r'^[✓ ]+ (0\.\d{3}) (0\.\d{3})$', text, re.M)
    ours = [
        tuple(f'{row.values[key].value:.3f}' for key in ('srcc', 'plcc'))
        for row in published_rows('table5')
    ]
    assert ours == printed


def test_newer_results_are_those_of_the_collected_notes(shared_data):
    text = (shared_data.parent / 'PAPER.md').read_text()
    rows = {row.method: row for row in published_rows('newer')}
    for method in ('Q-Align', 'TOPIQ-IAA', 'NIMA', 'LAION-Aesthetics', 'CLIP-IQA'):
        values = rows.pop(method).values
        assert f'{method} {values["srcc"].value:.3f} / {values["plcc"].value:.3f}' in text
    aesformer = rows['AesFormer']
    assert 'AesFormer > 0.90 (with comments)' in text and aesformer.text_source == 'comments'
    assert all((v.value, v.bound) == (0.9, '>') for v in aesformer.values.values())


def test_newer_results_beside_the_collected_notes_are_those_of_their_cards():
    rows = {row.method: row for row in published_rows('newer')}
    for method, srcc, plcc in (  # as the cards print them
        ('OneAlign', 0.823, 0.819),
        ('Q-ReAlign Mini (0.8B)', 0.797, 0.794),
        ('Q-ReAlign Lite (4B)', 0.814, 0.804),
        ('Q-ReAlign Pro (9B)', 0.832, 0.828),
    ):
        row = rows[method]
        assert (row.values['srcc'].value, row.values['plcc'].value) == (srcc, plcc)
        assert row.origin.startswith(f'published ({method.split()[0]}, ')
        assert row.text_source == 'none'


def test_an_unknown_table_is_an_error():
    with pytest.raises(AMHPError, match=r'table6.*table1.*newer'):
        published_rows('table6')


def test_the_sources_have_a_name_and_a_title():
    assert CONTENT.keys() == {'sources', 'tables'}
    for source in CONTENT['sources'].values():
        assert source.keys() == {'name', 'title'}


@pytest.mark.parametrize('name', CONTENT['tables'])
def test_a_table_has_only_known_keys_sources_and_texts(name):
    table = CONTENT['tables'][name]
    assert {'caption', 'data', 'source', 'rows'} <= table.keys()
    assert table.keys() <= {'caption', 'data', 'source', 'where', 'text', 'rows'}
    assert table['data'] in ('ava', 'para', 'aadb')
    for row in table['rows']:
        assert row.keys() <= {'method', 'text', 'source', 'where', *KEYS}, row
        assert row.keys() & KEYS, row
    for entry in (table, *table['rows']):
        assert entry.get('source', 'paper') in CONTENT['sources'], entry
        assert entry.get('text', 'none') in TEXTS, entry


@pytest.mark.parametrize('name', CONTENT['tables'])
def test_a_method_has_one_row_and_values_in_range(name):
    rows = published_rows(name)
    assert len({row.method for row in rows}) == len(rows)
    for row in rows:
        for key, value in row.values.items():
            low, high = {'acc': (0.01, 1), 'mse': (0, float('inf'))}.get(key, (-1, 1))
            assert low <= value.value <= high, (row.method, key)
            assert value.bound in ('', '<', '>')
