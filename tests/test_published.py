"""RawDataset figures: as printed, marked as published, and joined only on request."""

import re

import pytest

from pyiqa_amhp.errors import AMHPError
from pyiqa_amhp.evaluation.published import FILE, published_data, published_rows, published_tables


def test_the_papers_tables_and_newer_results_are_there():
    assert list(published_tables()) == ['table1', 'table2', 'table3', 'table4', 'table5', 'newer']
    assert [len(published_rows(f'table{i}')) for i in range(1, 6)] == [16, 8, 12, 4, 6]
    assert published_data('table3') == 'aadb'


def test_every_row_says_that_it_is_published_and_where():
    for name in published_tables():
        for row in published_rows(name):
            assert row.kind == 'published' and row.origin.startswith('published (')
            assert row.source and row.values


def test_acc_is_a_share_like_ours():
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


def test_newer_results_are_as_they_were_gathered(shared_data):
    text = (shared_data.parent / 'PAPER.md').read_text()
    rows = {row.method: row for row in published_rows('newer')}
    for method in ('Q-Align', 'TOPIQ-IAA', 'NIMA', 'LAION-Aesthetics', 'CLIP-IQA'):
        values = rows.pop(method).values
        assert f'{method} {values["srcc"].value:.3f} / {values["plcc"].value:.3f}' in text
    [aesformer] = rows.values()
    assert 'AesFormer > 0.90 (with comments)' in text and aesformer.text_source == 'comments'
    assert all((v.value, v.bound) == (0.9, '>') for v in aesformer.values.values())


def test_an_unknown_table_is_an_error():
    with pytest.raises(AMHPError, match=r'table6.*table1.*newer'):
        published_rows('table6')


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (lambda text: text.replace('acc: 75.4', 'acc: 0.754'), 'in percent'),
        (lambda text: text.replace('srcc: 0.558', 'srcc: about'), 'expected a number'),
        (lambda text: text.replace('acc: 75.4', 'accuracy: 75.4'), 'accuracy'),
        (lambda text: text.replace('"APM [29]"', '"DMA-Net [26]"'), 'there already'),
        (lambda text: text.replace('text: none', 'text: captions'), 'captions'),
        (lambda text: text.replace('source: paper', 'source: book'), 'book'),
        (lambda text: 'tables', 'expected'),
    ],
)
def test_a_file_of_another_form_names_the_place(tmp_path, change, expected):
    file = tmp_path / 'published.yml'
    file.write_text(change(FILE.read_text()))
    with pytest.raises(AMHPError, match=expected):
        published_rows('table1', file)
