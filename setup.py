"""Metadata lives in pyproject.toml; here is only what it cannot say: where two files go."""

from setuptools import Distribution, setup  # first: it provides distutils from Python 3.12 on
from setuptools.command.build_py import build_py

from distutils.command.install_data import install_data  # isort: skip


class InstallPth(install_data):
    """Put data files beside the package, where Python looks for ``.pth`` files.

    ``data_files`` land under ``sys.prefix`` by default. Both kinds of wheel, normal and
    editable, run this one command, so both carry the ``.pth``.
    """

    def run(self):
        self.install_dir = self.get_finalized_command('install').install_lib
        super().run()


class PthDistribution(Distribution):
    def has_data(self):
        """What an editable build asks for before it installs data files."""
        return self.has_data_files()


class BuildKeywords(build_py):
    """Put the lists of keywords, which users find in ``datasets_meta/``, into the package."""

    def run(self):
        super().run()
        if not self.editable_mode:  # there the package reads them where they are
            target = f'{self.build_lib}/pyiqa_amhp/datasets'
            self.copy_file('datasets_meta/attribute_keywords.yml', target)


setup(
    distclass=PthDistribution,
    data_files=[('', ['pyiqa_amhp_autoload.pth'])],
    cmdclass={'build_py': BuildKeywords, 'install_data': InstallPth},
)
