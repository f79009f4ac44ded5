"""Metadata lives in pyproject.toml; here is only what it cannot say: where the .pth goes."""

from setuptools import Distribution, setup  # first: it provides distutils from Python 3.12 on

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


setup(
    distclass=PthDistribution,
    data_files=[('', ['pyiqa_amhp_autoload.pth'])],
    cmdclass={'install_data': InstallPth},
)
