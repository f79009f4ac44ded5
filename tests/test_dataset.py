"""``AMHPDataset``: samples, phases, kinds of images, unreadable images, augmentation, pyiqa."""

import io
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pyiqa.data import build_dataloader, build_dataset

from pyiqa_amhp.datasets.dataset import AMHPDataset, GridCrop, build_augments
from pyiqa_amhp.datasets.images import read_image
from pyiqa_amhp.errors import AMHPError, ImageReadError

FIVE = [1, 2, 3, 4, 5]


@pytest.fixture
def make(tmp_path):
    """An ``AMHPDataset`` of files by name: images are saved, bytes are written as they are."""

    def make(files, save_options=None, **options):
        folder = tmp_path / 'images'
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            elif content is not None:
                content.save(folder / name, **(save_options or {}))
        csv = tmp_path / 'rated.csv'
        pd.DataFrame({'img_name': list(files), 'MOS': 3}).to_csv(csv, index=False)
        return AMHPDataset(
            {'meta_info_file': csv, 'dataroot_target': folder, 'level_values': FIVE, **options}
        )

    return make


def options_of(csv, **options):
    return {
        'name': 'rated',
        'type': 'AMHPDataset',
        'meta_info_file': str(csv),
        'dataroot_target': str(csv.parent / 'images'),
        'phase': 'train',
        **options,
    }


def close_to(image, rgb):
    return torch.allclose(image.mean(dim=(1, 2)), torch.tensor(rgb), atol=0.03)


# A sample


def test_a_sample_has_the_tensors_and_the_text_of_an_image(shared_rated_images):
    dataset = AMHPDataset(options_of(shared_rated_images))
    table = pd.read_csv(shared_rated_images)
    assert len(dataset) == len(dataset.paths_mos) == 24
    sample = dataset[7]
    path = shared_rated_images.parent / 'images' / '07.png'
    votes = table.loc[7, [f'c{i}' for i in range(1, 11)]].to_numpy(float)
    assert sample.keys() == {
        'img', 'mos_label', 'mos_dist', 'level_values', 'text', 'img_path', 'read_error'
    }  # fmt: skip
    assert sample['level_values'].tolist() == [1.5, 3.5, 5.5, 7.5, 9.5]
    assert (sample['img_path'], sample['read_error']) == (str(path), '')
    assert sample['text'] == 'light number 7'
    pixels = np.asarray(Image.open(path)).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(sample['img'], pixels, atol=1e-6)
    assert sample['img'].dtype == sample['mos_label'].dtype == torch.float32
    assert sample['mos_label'].shape == (1,)
    assert sample['mos_label'].item() == pytest.approx(votes @ np.arange(1, 11) / 20)
    np.testing.assert_allclose(sample['mos_dist'], votes.reshape(5, 2).sum(1) / 20, atol=1e-6)
    assert dataset.paths_mos[7] == [str(path), pytest.approx(sample['mos_label'].item())]


def test_an_image_without_text_has_an_empty_text(shared_rated_images):
    assert AMHPDataset(options_of(shared_rated_images))[5]['text'] == ''


def test_the_range_of_the_pixels_is_an_option(make):
    white = {'a.png': Image.new('RGB', (4, 4), 'white')}
    assert make(white)[0]['img'].max() == 1
    assert make(white, img_range=255)[0]['img'].max() == 255


@pytest.mark.parametrize(
    ('options', 'dtype'),
    [
        ({'augment': {'resize': [6, 6], 'hflip': True}}, torch.uint8),
        ({}, torch.uint8),
        ({'img_range': 255}, torch.float32),
        ({'augment': {'totensor': True}}, torch.float32),
    ],
)
def test_bytes_are_given_where_floats_follow_from_them(make, options, dtype):
    dataset = make({'a.png': Image.effect_noise((8, 8), 90).convert('RGB')}, **options)
    dataset.begin_epoch(0, 0)
    floats = dataset[0]['img']
    dataset.gives_bytes = True
    pixels = dataset[0]['img']
    assert pixels.dtype == dtype and pixels.shape == floats.shape
    assert torch.equal(pixels if dtype == torch.float32 else pixels.float() / 255, floats)


@pytest.fixture
def large_jpeg():
    """An image that is decoded at 1/2 for a resize to 50: 200 x 150, but 75 would be too few."""
    return {'a.jpg': Image.effect_noise((400, 300), 90).convert('RGB')}


@pytest.mark.parametrize(
    ('augment', 'at_least'),
    [
        ({'resize': [50, 40], 'grid_crop': 32}, 100),
        ({'resize': 50, 'random_crop': 32}, 100),
        ({'resize': {'size': 50, 'max_size': 90}}, None),
        ({'random_crop': 32, 'resize': 50}, None),
        ({}, None),
    ],
)
def test_a_large_jpeg_is_decoded_at_a_fraction_for_training(make, large_jpeg, augment, at_least):
    dataset = make(large_jpeg, {'quality': 90}, augment=augment)
    path = dataset.images.path(0)
    torch.manual_seed(0)
    sample = dataset[0]['img']
    torch.manual_seed(0)
    assert torch.equal(sample, dataset.trans(read_image(path, at_least)))
    torch.manual_seed(0)
    assert torch.equal(sample, dataset.trans(read_image(path))) == (at_least is None)


@pytest.mark.parametrize('options', [{'exact': True}, {'phase': 'val'}, {'phase': 'test'}])
def test_a_large_jpeg_is_decoded_whole_outside_training_and_if_asked(make, large_jpeg, options):
    dataset = make(large_jpeg, {'quality': 90}, augment={'resize': [50, 50]}, **options)
    assert torch.equal(dataset[0]['img'], dataset.trans(read_image(dataset.images.path(0))))


# Phases


@pytest.mark.parametrize(
    ('options', 'first', 'count'),
    [
        ({'split_index': 'split'}, '00.png', 12),
        ({'split_index': 'split', 'phase': 'val'}, '12.png', 6),
        ({'split_index': 'split', 'phase': 'val', 'override_phase': 'test'}, '18.png', 6),
        ({'phase': 'test'}, '00.png', 24),
    ],
)
def test_a_phase_has_the_rows_of_its_split(shared_rated_images, options, first, count):
    dataset = AMHPDataset(options_of(shared_rated_images, **options))
    assert len(dataset) == count
    assert dataset[0]['img_path'].endswith(first)


def test_a_pickled_split_file_is_refused_unread(shared_rated_images, tmp_path):
    touched = tmp_path / 'touched'

    class Trap:
        def __reduce__(self):
            return open, (str(touched), 'w')

    file = tmp_path / 'split.pkl'
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(AMHPError, match=r'pickles are not read.*split_index'):
        AMHPDataset(options_of(shared_rated_images, split_file=str(file)))
    assert not touched.exists()


def test_a_missing_split_column_is_an_error(make):
    with pytest.raises(AMHPError, match='is not a split column'):
        make({'a.png': Image.new('RGB', (4, 4))}, split_index='split')


# Kinds of images

RED, GREY = (1.0, 0.0, 0.0), (0.5, 0.5, 0.5)


def red(mode='RGB'):
    return Image.new('RGB', (32, 24), 'red').convert(mode)


@pytest.mark.parametrize(
    ('name', 'image', 'options', 'colour'),
    [
        ('rgb.jpg', red(), {'quality': 95}, RED),
        ('palette.gif', red('P'), {}, RED),
        ('palette.png', red('P'), {}, RED),
        ('cmyk.jpg', red('CMYK'), {'quality': 95}, RED),
        ('grey.png', Image.new('L', (32, 24), 128), {}, GREY),
        ('black and white.png', Image.new('1', (32, 24), 1), {}, (1.0, 1.0, 1.0)),
        ('deep.png', Image.fromarray(np.full((24, 32), 32768, np.uint16)), {}, GREY),
        ('alpha.png', Image.new('RGBA', (32, 24), (255, 0, 0, 255)), {}, RED),
        ('clear.png', Image.new('RGBA', (32, 24), (255, 0, 0, 0)), {}, (1.0, 1.0, 1.0)),
        ('animated.gif', red(),
         {'save_all': True, 'append_images': [Image.new('RGB', (32, 24), 'blue')]}, RED),
    ],
)  # fmt: skip
def test_every_kind_of_image_becomes_rgb(make, name, image, options, colour):
    sample = make({name: image}, options)[0]
    assert sample['img'].shape == (3, 24, 32)
    assert sample['img'].dtype == torch.float32
    assert close_to(sample['img'], colour)


def test_a_rotated_image_is_turned_upright(make):
    image = Image.new('RGB', (32, 24), 'black')
    image.paste('red', (0, 0, 32, 8))  # red on top
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise: then red on the right
    turned = make({'a.jpg': image}, {'exif': exif, 'quality': 95})[0]['img']
    assert turned.shape == (3, 32, 24)
    assert turned[0, :, -6:].mean() > 0.9
    assert turned[0, :, :14].mean() < 0.1


# Unreadable images

GOOD = Image.effect_noise((32, 24), 80).convert('RGB')


def truncated():
    buffer = io.BytesIO()
    GOOD.save(buffer, 'PNG')
    return buffer.getvalue()[:-100]


BAD = {
    'missing.png': (None, 'no such file'),
    'truncated.png': (truncated(), 'damaged or truncated'),
    'empty.png': (b'', 'the file is empty'),
    'text.png': (b'hello', 'not an image'),
}


@pytest.mark.parametrize('name', BAD)
def test_an_unreadable_image_is_an_error_with_its_path(make, tmp_path, name):
    content, reason = BAD[name]
    dataset = make({'good.png': GOOD, name: content})
    assert dataset[0]['read_error'] == ''
    with pytest.raises(ImageReadError, match=reason) as caught:
        dataset[1]
    assert str(caught.value).startswith(str(tmp_path / 'images' / name))


def test_unreadable_images_can_be_samples_with_an_error(make, tmp_path):
    contents = {name: content for name, (content, _) in BAD.items()}
    augment = {'resize': [20, 20]}
    dataset = make({**contents, 'good.png': GOOD}, skip_bad_images=True, augment=augment)
    for i, (name, (_, reason)) in enumerate(BAD.items()):
        sample = dataset[i]
        assert sample['read_error'].startswith(str(tmp_path / 'images' / name))
        assert reason in sample['read_error']
        assert sample['img_path'] == str(tmp_path / 'images' / name)
        assert sample['img'].shape == dataset[4]['img'].shape == (3, 20, 20)
    assert dataset[4]['read_error'] == ''


def test_a_wrong_folder_is_an_error_before_training(make, tmp_path):
    with pytest.raises(
        AMHPError, match=r'1 of the first 1 images are not there.*dataroot'
    ) as caught:
        make({'a.png': GOOD}, dataroot_target=str(tmp_path / 'elsewhere'))
    assert str(caught.value).startswith(str(tmp_path / 'elsewhere' / 'a.png'))


@pytest.mark.parametrize(
    ('there', 'skip', 'hint'),
    [
        (0, True, ''),
        (9, True, ''),  # of 20
        (19, False, ''),  # the first is missing
        ('.JPG', True, "; there is 'a00.JPG': names need the suffix of their file"),
        ('A00', True, "; there is 'A00': upper and lower case differ"),
    ],
)
def test_missing_images_are_one_error_with_the_first_path(tmp_path, there, skip, hint):
    names = [f'a{i:02}' for i in range(30)]
    csv = tmp_path / 'rated.csv'
    pd.DataFrame({'img_name': names, 'MOS': [1.0, 5.0] * 15}).to_csv(csv, index=False)
    (tmp_path / 'images').mkdir()
    files = [f'a00{there}' if there == '.JPG' else there] if hint else names[20 - there : 20]
    for name in [*files, *names[20:]]:
        (tmp_path / 'images' / name).touch()
    opt = {'meta_info_file': str(csv), 'dataroot_target': str(tmp_path / 'images')}
    with pytest.raises(AMHPError) as caught:
        AMHPDataset({**opt, 'level_values': [1, 2, 3, 4, 5], 'skip_bad_images': skip})
    missing = 20 if hint else 20 - there
    assert str(caught.value) == (
        f'{tmp_path / "images" / "a00"}: {missing} of the first 20 images are not there; check '
        f"dataroot_target='{tmp_path / 'images'}' (--images of a command) and the column "
        f'img_name of {csv}{hint}'
    )


def test_half_of_the_first_images_may_be_missing_if_they_are_skipped(make):
    dataset = make({'a.png': GOOD, 'b.png': None}, skip_bad_images=True)
    assert 'no such file' in dataset[1]['read_error']


def test_a_misspelt_option_is_an_error_with_the_nearest_name(make):
    with pytest.raises(AMHPError, match="no option 'spilt_index'; did you mean 'split_index'"):
        make({'a.png': GOOD}, spilt_index='split')


def test_text_is_not_taken_for_true(make):
    with pytest.raises(AMHPError, match="skip_bad_images='false': expected true or false"):
        make({'a.png': GOOD}, skip_bad_images='false')


# Augmentation


def coordinates(width, height):
    """An image whose pixels are their own coordinates."""
    y, x = np.mgrid[0:height, 0:width]
    return Image.fromarray(np.stack([x, y, x * 0], axis=-1).astype(np.uint8))


def corners(crop, image, times=600):
    torch.manual_seed(0)
    return {tuple(np.asarray(crop(image))[0, 0, :2].tolist()) for _ in range(times)}


def test_the_windows_of_a_grid_crop_are_the_authors_5_by_5():
    crop = GridCrop(224, 8)
    steps = [0, 8, 16, 24, 32]
    assert corners(crop, coordinates(256, 256)) == {(x, y) for x in steps for y in steps}
    assert crop(coordinates(256, 256)).size == (224, 224)


def test_windows_of_a_grid_crop_stay_in_the_image():
    found = corners(GridCrop(10, 4), coordinates(19, 10))
    assert found == {(0, 0), (4, 0), (8, 0)}


def test_grid_crop_in_a_data_set(make):
    augment = {'resize': [40, 40], 'grid_crop': {'size': 32, 'step': 4}}
    assert make({'a.png': GOOD}, augment=augment)[0]['img'].shape == (3, 32, 32)
    assert make({'a.png': GOOD}, augment={'grid_crop': 24})[0]['img'].shape == (3, 24, 24)


def test_grid_crop_of_too_small_an_image_is_an_error(make):
    dataset = make({'a.png': GOOD}, augment={'grid_crop': {'size': 32, 'step': 4}})
    with pytest.raises(AMHPError, match='grid_crop of 32 pixels from 24: resize to more first'):
        dataset[0]


def test_the_transforms_are_in_the_order_of_the_options():
    steps = build_augments({'resize': [40, 40], 'hflip': True, 'grid_crop': 32})
    assert [type(step).__name__ for step in steps] == [
        'PairedResize',
        'PairedRandomHorizontalFlip',
        'GridCrop',
    ]
    assert build_augments({'hflip': False}) == build_augments(None) == []


@pytest.mark.parametrize('key', ['centre_crop', 'Resize', 'gridcrop'])
def test_an_unknown_augmentation_is_refused(make, key):
    with pytest.raises(AMHPError, match=f"augment: unknown key '{key}'; known are grid_crop"):
        make({'a.png': GOOD}, augment={key: 32})


# Through pyiqa


def test_pyiqa_builds_and_loads_it_with_workers(shared_rated_images):
    options = options_of(
        shared_rated_images,
        split_index='split',
        augment={'resize': [32, 32]},
        num_worker_per_gpu=2,
        batch_size_per_gpu=5,
        skip_bad_images=True,
    )
    dataset = build_dataset(options)
    assert type(dataset) is AMHPDataset
    batches = list(build_dataloader(dataset, options, num_gpu=0, seed=1))
    assert [len(batch['img']) for batch in batches] == [5, 5]  # pyiqa drops the last in training
    batch = batches[0]
    assert batch['img'].shape == (5, 3, 32, 32)
    assert batch['mos_label'].shape == (5, 1)
    assert batch['mos_dist'].shape == (5, 5)
    seen = [path for batch in batches for path in batch['img_path']]
    assert len(set(seen)) == 10
    for path, text, mos in zip(batch['img_path'], batch['text'], batch['mos_label'], strict=True):
        row = next(i for i in range(12) if dataset[i]['img_path'] == path)
        assert (text, mos) == (dataset[row]['text'], dataset[row]['mos_label'])


def test_validation_reads_every_row_in_order(shared_rated_images):
    options = options_of(shared_rated_images, phase='val', split_index='split')
    loader = build_dataloader(build_dataset(options), options)
    assert [batch['img_path'][0][-6:] for batch in loader] == [f'{i}.png' for i in range(12, 18)]


def test_texts_are_unchanged_by_a_data_loader(rated_images):
    texts = ['a, b', 'say "hi"', 'two\nlines', 'ünï 美 📷', "it's; #1\t!", '']
    table = pd.read_csv(rated_images).head(6).assign(text=texts)
    table.to_csv(rated_images, index=False)
    options = options_of(rated_images, phase='val', batch_size_per_gpu=6)
    batch = next(iter(build_dataloader(build_dataset(options), options)))
    assert batch['text'] == texts
