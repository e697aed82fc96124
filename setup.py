"""Map the repository's top-level folders onto one import package, subpackages included."""

from setuptools import find_packages, setup

FOLDERS = {"flashlight": "flashlight", "flashlight.passes": "passes", "flashlight.codegen": "codegen"}

setup(
    package_dir=FOLDERS,
    packages=[
        package
        for name, folder in FOLDERS.items()
        for package in (name, *(f"{name}.{found}" for found in find_packages(folder)))
    ],
)
