from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from sweeper.core.code import copies
from sweeper.core.code.copies import copy_user_code, freeze_user_code
from sweeper.core.code.user_code import digest_user_code, find_trainable, load_trainable, user_code_root
from sweeper.core.errors import InputError
from sweeper.spec import Command
from sweeper.spec.code_checks import refuse_hidden_modules
from sweeper.training.hparams import RNNParams

HEAVY = "raise RuntimeError('was imported')\n"
PARAMS = "from pydantic import BaseModel\nclass Params(BaseModel):\n    x: float\n"
TRAIN = "def train(params: {annotation}, trial):\n    pass\n"


@pytest.fixture(autouse=True)
def forget_modules() -> Iterator[None]:
    before, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]
    sys.path[:] = path


def write(**modules: str) -> None:
    """Write modules into the current folder, by path without `.py`."""
    for name, source in modules.items():
        path = Path(f"{name}.py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)


def test_built_in_trainable_is_found_with_its_hyperparameters() -> None:
    info = find_trainable("sweeper.training:train_rnn")

    assert (info.module, info.function, info.params_model) == ("sweeper.training", "train_rnn", RNNParams)


@pytest.mark.parametrize(
    "source",
    [
        HEAVY + "from params import Params\n" + TRAIN.format(annotation="Params"),
        HEAVY + "from params import Params as P\n" + TRAIN.format(annotation="P"),
        HEAVY + "from params import Params\n" + TRAIN.format(annotation="'Params'"),
        HEAVY + "import params\n" + TRAIN.format(annotation="params.Params"),
        HEAVY + "import params as p\n" + TRAIN.format(annotation="p.Params"),
        HEAVY + "if TYPE_CHECKING:\n    from params import Params\n" + TRAIN.format(annotation="Params"),
        HEAVY
        + "from params import Params\n"
        + "class Train:\n    def __call__(self, params: Params, trial): ...\ntrain = Train()\n",
    ],
)
def test_only_the_module_of_the_hyperparameters_is_imported(source: str) -> None:
    write(params_user=source, params=PARAMS)

    found = find_trainable("params_user:train").params_model

    assert found is not None and issubclass(found, BaseModel) and list(found.model_fields) == ["x"]
    assert "params_user" not in sys.modules


def test_packages_of_the_module_are_not_imported() -> None:
    write(**{"heavy/__init__": HEAVY, "heavy/inner": HEAVY + "import os\n" + TRAIN.format(annotation="int")})

    assert find_trainable("heavy.inner:train").params_model is None
    assert "heavy" not in sys.modules


def test_function_that_a_package_re_exports_is_followed() -> None:
    write(
        **{
            "passing/__init__": "from .inner import train as fit\n",
            "passing/inner": "from passing.params import Params\n" + TRAIN.format(annotation="Params"),
            "passing/params": PARAMS,
        }
    )

    found = find_trainable("passing:fit").params_model

    assert found is not None and found.__module__ == "passing.params"


def test_hyperparameters_in_the_module_of_the_function_import_it() -> None:
    write(beside=PARAMS + TRAIN.format(annotation="Params"))

    found = find_trainable("beside:train").params_model

    assert found is sys.modules["beside"].Params


def test_dataclass_declares_hyperparameters_too() -> None:
    source = "from dataclasses import dataclass\n@dataclass\nclass Params:\n    x: float\n"
    write(classy=source + TRAIN.format(annotation="Params"))

    found = find_trainable("classy:train").params_model

    assert found is not None and dataclasses.is_dataclass(found)


@pytest.mark.parametrize(
    "annotation", ["dict", "dict[str, Any]", "Mapping[str, float]", "'dict['", "int | None", "Unknown"]
)
def test_any_other_annotation_accepts_any_parameters(annotation: str) -> None:
    write(loose="from collections.abc import Mapping\n" + TRAIN.format(annotation=annotation))

    assert find_trainable("loose:train").params_model is None


def test_no_annotation_accepts_any_parameters() -> None:
    write(bare="def train(params, trial): ...\ndef other(*both): ...\nmade = make()\n")

    assert [find_trainable(f"bare:{name}").params_model for name in ("train", "other", "made")] == [None] * 3


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("user", "'user' is not of the form package.module:function"),
        ("user:", "is not of the form"),
        ("user.py:train", "there is no module 'user.py'"),
        ("nowhere.at.all:train", "there is no module 'nowhere.at.all' in "),
        ("user.inner:train", "there is no module 'user.inner'"),
        ("sys:exit", "there is no module 'sys'"),
        ("user:trian", "module 'user' has no function 'trian'. Did you mean 'train'?"),
        ("user:zzz", "Known: train, alone."),
        ("user:NUMBER", "the name in module 'user' is not a plain function (line 3)"),
        ("user:Class", "is not a plain function (line 4)"),
        ("user:later", "is not a plain function (line 5)"),
        ("user:alone", "user:alone must take two arguments, params and trial (line 2)"),
        ("broken:train", "broken.py:3:3: unindent does not match"),
        ("binary:train", "binary.py: source code string cannot contain null bytes"),
        ("failing:train", "module 'failing_params' cannot be imported: ZeroDivisionError: division by zero"),
        ("circle:train", "no function 'train'"),
    ],
)
def test_invalid_trainable_is_explained(path: str, message: str) -> None:
    write(
        user="def train(params, trial): ...\ndef alone(params): ...\nNUMBER = 3\n"
        "class Class: ...\nasync def later(a, b): ...\n",
        broken="def train(params):\n  pass\n x\n",
        binary="\0",
        failing="from failing_params import Params\n" + TRAIN.format(annotation="Params"),
        failing_params="1 / 0\n",
        circle="from circle import train\n",
    )
    with pytest.raises(InputError) as caught:
        find_trainable(path)

    assert message in str(caught.value)


def test_module_of_the_current_folder_can_be_loaded() -> None:
    write(mine="def train(params, trial):\n    return params['x']\nNUMBER = 3\n")

    assert load_trainable("mine:train")({"x": 3}, None) == 3
    with pytest.raises(InputError, match="mine:NUMBER is not a function"):
        load_trainable("mine:NUMBER")
    with pytest.raises(InputError, match="mine has no 'trian'"):
        load_trainable("mine:trian")


def test_module_that_fails_on_import_is_explained() -> None:
    write(failing="import no_such_package\n")

    with pytest.raises(InputError, match="ModuleNotFoundError: No module named 'no_such_package'"):
        load_trainable("failing:train")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create a user's folder with code, a virtual environment, results and data; enter it."""
    for name in (
        "mine.py",
        "helpers.py",
        "parts/__init__.py",
        "parts/deep/model.py",
        ".venv/lib/other.py",
        "sweeps/x.py",
    ):
        file = tmp_path / "home" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("def train(params, trial): ...\n")
    (tmp_path / "home" / "images.npz").write_bytes(bytes(1000))
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


@pytest.mark.parametrize("trainable", ["mine:train", "parts.deep.model:train"])
def test_only_python_files_of_the_user_are_copied(home: Path, tmp_path: Path, trainable: str) -> None:
    copy_user_code(trainable, tmp_path / "there")
    copied = {str(file.relative_to(tmp_path / "there")) for file in (tmp_path / "there").rglob("*") if file.is_file()}
    assert copied == {"mine.py", "helpers.py", "parts/__init__.py", "parts/deep/model.py"}


@pytest.mark.parametrize("trainable", ["sweeper.training:train_rnn", "sklearn.linear_model:train", "json:train"])
def test_installed_trainable_is_not_copied(home: Path, tmp_path: Path, trainable: str) -> None:
    assert user_code_root(trainable) is None
    copy_user_code(trainable, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_sweeper_itself_is_not_copied(tmp_path: Path) -> None:
    copy_user_code("tests.samples:climb", tmp_path / "there")
    assert (tmp_path / "there/tests/samples.py").is_file() and not (tmp_path / "there/sweeper").exists()


def test_folder_with_too_many_files_is_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MAX_FILES", 3)
    with pytest.raises(InputError, match="holds more than 3 Python files .* only the code of mine:train"):
        copy_user_code("mine:train", tmp_path / "there")


def test_module_that_does_not_exist_is_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no module 'absent'"):
        copy_user_code("absent:train", tmp_path / "there")


def freeze(trainable: str, tmp_path: Path) -> Path:
    tmp_path.mkdir(exist_ok=True)
    copy = freeze_user_code(trainable, tmp_path / "code", digest_user_code(trainable))
    assert copy == tmp_path / "code" / "home"
    return copy


@pytest.mark.parametrize("trainable", ["mine:train", "parts.deep.model:train"])
def test_frozen_code_is_a_copy_with_links_to_its_data(home: Path, tmp_path: Path, trainable: str) -> None:
    (home / "parts" / "table.csv").write_text("1\n")
    copy = freeze(trainable, tmp_path)
    files = {str(file.relative_to(copy)) for file in copy.rglob("*.py") if not file.is_symlink()}
    assert files == {"mine.py", "helpers.py", "parts/__init__.py", "parts/deep/model.py"}
    links = {str(file.relative_to(copy)) for file in copy.rglob("*") if file.is_symlink()}
    assert links == {"images.npz", "parts/table.csv", ".venv", "sweeps"}
    assert (copy / "parts/table.csv").read_text() == "1\n"


def test_frozen_code_does_not_change_with_its_original(home: Path, tmp_path: Path) -> None:
    copy = freeze("mine:train", tmp_path)
    write(mine="changed = 1\n")
    assert "changed" not in (copy / "mine.py").read_text()
    assert find_trainable("mine:train", copy).function == "train"
    assert load_trainable("mine:train", copy).__code__.co_filename == str(copy / "mine.py")
    freeze("mine:train", tmp_path)
    assert "changed" in (copy / "mine.py").read_text()


def test_code_that_looks_above_itself_finds_its_files(home: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "table.csv").write_text("1\n")
    copy = freeze("mine:train", tmp_path / "results")
    assert (copy.parent / "data" / "table.csv").read_text() == "1\n"
    assert not (copy.parent / "results").exists()


def test_huge_folder_beside_the_code_is_linked(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MAX_ENTRIES", 30)
    for number in range(40):
        (home / "data" / f"{number:02d}").mkdir(parents=True)
        (home / "data" / f"{number:02d}" / "label.py").write_text("")
    write(
        **{
            "zoo/__init__": "",
            "zoo/model": "from zoo.parts import net\n",
            "zoo/parts": "",
            "mine": "import zoo.model\n",
        }
    )
    copy = freeze("mine:train", tmp_path)
    assert (copy / "data").is_symlink() and not (copy / "zoo").is_symlink()
    assert (copy / "zoo/parts.py").is_file()


def test_results_of_sweeps_are_not_taken_for_code(home: Path, tmp_path: Path) -> None:
    for name in ("out", "other"):
        (home / name / "code").mkdir(parents=True)
        (home / name / "study.json").write_text("{}")
        (home / name / "code" / "mine.py").write_text("")
    copy = freeze_user_code("mine:train", home / "out" / "code", ())
    assert copy is not None and not (copy / "out").exists() and (copy / "other").is_symlink()
    copy_user_code("mine:train", tmp_path / "there")
    assert not (tmp_path / "there" / "other").exists()


def test_link_to_nowhere_beside_the_code_is_skipped(home: Path, tmp_path: Path) -> None:
    (home / ".#mine.py").symlink_to("ada@host.123:456")
    assert (freeze("mine:train", tmp_path) / "mine.py").is_file()
    copy_user_code("mine:train", tmp_path / "there")
    assert (tmp_path / "there/mine.py").is_file()


def test_installed_trainable_is_not_frozen(home: Path, tmp_path: Path) -> None:
    assert freeze_user_code("sweeper.training:train_rnn", tmp_path / "code", ()) is None
    assert digest_user_code("json:train") == {} and not (tmp_path / "code").exists()


def test_digest_covers_every_file_that_the_trainable_imports(home: Path) -> None:
    write(
        **{
            "mine": "import json\nfrom parts.deep import model\ndef train(params, trial):\n    import helpers\n",
            "helpers": "from parts import *\nfrom . import nothing\n",
            "parts/deep/model": "from ..sizes import SIZE\n",
            "parts/sizes": "SIZE = 1\n",
            "unused": "",
        }
    )
    before = digest_user_code("mine:train")
    assert set(before) == {"mine.py", "helpers.py", "parts/__init__.py", "parts/deep/model.py", "parts/sizes.py"}
    write(**{"parts/sizes": "SIZE = 2\n", "helpers": "from parts import *  # a comment\nfrom . import nothing\n"})
    after = digest_user_code("mine:train")
    assert [name for name in before if before[name] != after[name]] == ["parts/sizes.py"]


HIDING = {
    "random.py": ("random:train", "hides the standard module 'random' from everything that imports it; rename it"),
    "types.py": ("mine:train", "hides the standard module 'types'"),
    "keras.py": ("mine:train", "hides the installed module 'keras'"),
    "sqlalchemy/__init__.py": ("mine:train", "hides the installed module 'sqlalchemy'"),
    "sweeper.py": ("mine:train", "hides the installed module 'sweeper'"),
    "pytest.py": ("mine:train", "hides the installed module 'pytest'"),
}


@pytest.mark.parametrize("file", HIDING)
def test_file_that_hides_a_module_is_named(home: Path, file: str) -> None:
    trainable, message = HIDING[file]
    write(**{file.removesuffix(".py"): "def train(params, trial): ...\n", "mine": "import pytest\n"})
    with pytest.raises(InputError, match=re.escape(f"{file} in {home} {message}")):
        refuse_hidden_modules(trainable)


@pytest.mark.parametrize("file", ["utils.py", "profile.py", "pytest.py", "train.py", "my-keras.py"])
def test_file_that_hides_nothing_needed_is_accepted(home: Path, file: str) -> None:
    write(**{file.removesuffix(".py"): "", "keras/data": ""})
    refuse_hidden_modules("mine:train")


def test_files_beside_a_built_in_sweep_are_not_on_the_path(home: Path) -> None:
    write(random="raise RuntimeError('was imported')\n", keras="raise RuntimeError('was imported')\n")
    refuse_hidden_modules("sweeper.training:train_rnn")
    assert load_trainable("sweeper.training:train_rnn") is not None
    assert str(home) not in sys.path


def test_hiding_file_is_refused_where_the_path_holds_the_current_folder(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(home))
    write(keras="")
    with pytest.raises(InputError, match=r"keras.py in .* hides the installed module"):
        refuse_hidden_modules("sweeper.training:train_rnn")


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a command whose files are in the current folder, with one of another folder and data beside them."""
    home = tmp_path / "home"
    (home / "src").mkdir(parents=True)
    monkeypatch.chdir(home)
    write(**{"src/train": "import helper\n", "src/helper": "VALUE = 1\n", "other": "pass\n"})
    Path("run.sh").write_text("exec python $1\n")
    Path("run.sh").chmod(0o755)
    Path("config.yaml").write_text("a: 1\n")
    Path("data.csv").write_text("1,2\n")
    (tmp_path / "tool.py").write_text("pass\n")
    return Command(command=["./run.sh", "src/train.py", "--config=config.yaml", str(tmp_path / "tool.py"), "{x}"])


def test_code_of_a_command_is_its_scripts_and_what_they_import(scripts: Command, tmp_path: Path) -> None:
    before = digest_user_code(scripts)
    assert set(before) == {"run.sh", "src/train.py", "src/helper.py", "config.yaml", str(tmp_path / "tool.py")}
    write(**{"src/helper": "VALUE = 2  # changed\n", "src/train": "import helper  # a comment\n"})
    after = digest_user_code(scripts)
    assert [name for name in before if before[name] != after[name]] == ["src/helper.py"]


def test_scripts_of_a_command_are_frozen_and_data_is_linked(scripts: Command, tmp_path: Path) -> None:
    copy = freeze_user_code(scripts, tmp_path / "code", digest_user_code(scripts))
    assert copy == tmp_path / "code/home"
    kept = {
        name: (copy / name).is_symlink() for name in ("run.sh", "src/train.py", "config.yaml", "other.py", "data.csv")
    }
    assert kept == {"run.sh": False, "src/train.py": False, "config.yaml": False, "other.py": False, "data.csv": True}
    assert os.access(copy / "run.sh", os.X_OK)


def test_scripts_of_a_command_are_copied_for_an_upload(scripts: Command, tmp_path: Path) -> None:
    copy_user_code(scripts, tmp_path / "there")
    found = {str(path.relative_to(tmp_path / "there")) for path in (tmp_path / "there").rglob("*") if path.is_file()}
    assert found == {"run.sh", "src/train.py", "src/helper.py", "config.yaml", "other.py"}


def test_command_without_scripts_has_no_code_to_copy(tmp_path: Path) -> None:
    installed = Command(command="true {x}")
    assert user_code_root(installed) is None and digest_user_code(installed) == {}
    assert freeze_user_code(installed, tmp_path / "code", ()) is None
