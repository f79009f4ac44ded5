"""Where two files go in the wheel; everything else about the package is in pyproject.toml."""

from setuptools import Distribution, setup  # first: from Python 3.12 on it provides distutils
from setuptools.command.build_py import build_py

from distutils.command.install_data import install_data  # isort: skip


class InstallPth(install_data):
    """Install data files beside the package, where Python looks for ``.pth`` files.

    The default is ``sys.prefix``. Builds of normal and of editable wheels both run this command,
    so both contain the ``.pth`` file.
    """

    def run(self):
        self.install_dir = self.get_finalized_command('install').install_lib
        super().run()


class PthDistribution(Distribution):
    def has_data(self):
        """Report data files, which an editable build installs only where there are any."""
        return self.has_data_files()


class BuildKeywords(build_py):
    """Copy the keyword lists of ``datasets_meta/`` into the package."""

    def run(self):
        super().run()
        if not self.editable_mode:  # an editable install reads them in datasets_meta/
            target = f'{self.build_lib}/pyiqa_amhp/datasets'
            self.copy_file('datasets_meta/attribute_keywords.yml', target)


setup(
    distclass=PthDistribution,
    data_files=[('', ['pyiqa_amhp_autoload.pth'])],
    cmdclass={'build_py': BuildKeywords, 'install_data': InstallPth},
)
