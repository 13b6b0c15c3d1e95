"""Shards of real FSDP ranks make the model again, bit for bit; what does not fit is refused."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from ptl_plugins.errors import StageError
from ptl_plugins.recovered import take_recovered
from ptl_plugins.shards import open_checkpoint
from ptl_plugins.testing import write_tiny_checkpoint
from verl_ext import shard_reader
from verl_ext.fsdp_shards import merge_shards, remove_shards

PROGRAM = Path(__file__).parent / "fsdp_ranks.py"
NAMES = (
    "fsdp2_of_2",
    "fsdp2_of_3",
    "fsdp2_of_4",
    "fsdp2_of_2x2",
    "fsdp1_of_1",
    "fsdp1_of_3",
    "fsdp1_of_2x2",
)
KEYS_OF_LAYER = "model.layers.0.self_attn.k_proj.weight"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Actor folders of real ranks, and `whole.pt`."""
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([sys.executable, PROGRAM, folder, *NAMES], check=True, capture_output=True)
    return folder


@pytest.fixture
def whole(real):
    return torch.load(real / "whole.pt", weights_only=True)


@pytest.fixture
def actor(real, tmp_path):
    """A copy, to be spoilt, of what two ranks saved."""
    return Path(shutil.copytree(real / "fsdp2_of_2", tmp_path / "actor"))


@pytest.fixture
def fabricate(tmp_path):
    """Shards of one tensor `w`, without processes: the ranks' pieces, placed as is said."""
    folder = tmp_path / "fabricated"

    def make(pieces, placements, *, shape, mesh=None, names=("fsdp",)):
        (folder / "huggingface").mkdir(parents=True)
        (folder / "huggingface" / "config.json").write_text('{"model_type": "llama"}')
        sizes = mesh or (len(pieces),)
        for rank, piece in enumerate(pieces):
            dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=len(pieces))
            try:
                w = DTensor.from_local(
                    piece,
                    init_device_mesh("cpu", sizes, mesh_dim_names=names),
                    placements,
                    run_check=False,
                    shape=torch.Size(shape),
                    stride=torch.empty(shape).stride(),
                )
                torch.save({"w": w}, rank_file(folder, rank, len(pieces)))
            finally:
                dist.destroy_process_group()
        return folder

    return make


def rank_file(actor, rank, world=2):
    return actor / f"model_world_size_{world}_rank_{rank}.pt"


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


def refusal(actor, tmp_path):
    """The one line with which a merge ends, which leaves nothing."""
    with pytest.raises(StageError) as error:
        merge_shards(actor, tmp_path / "merged")
    assert not list(tmp_path.glob("merged*"))
    return one_line(error)


def load(actor, world=2):
    return torch.load(rank_file(actor, 0, world), weights_only=True)


def edit(actor, rank, change):
    """Load a rank's state, change it in place and save it."""
    path = rank_file(actor, rank)
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize("name", NAMES)
def test_the_shards_of_real_ranks_make_the_model_in_bf16_bit_for_bit(name, real, whole, tmp_path):
    merged = load_file(merge_shards(real / name, tmp_path / "merged") / "model.safetensors")
    assert len(merged) == 36
    assert merged.keys() == whole.keys()
    for tensor in whole:
        assert merged[tensor].dtype == torch.bfloat16
        assert torch.equal(merged[tensor], whole[tensor].bfloat16())


def test_the_last_of_four_real_ranks_has_nothing_of_a_short_tensor(real):
    # what the test above says of uneven and empty pieces would mean nothing without them
    pieces = [
        shard_reader.read_rank(rank_file(real / "fsdp2_of_4", rank, 4)).pieces for rank in range(4)
    ]
    assert [len(each[KEYS_OF_LAYER].local) for each in pieces] == [2, 2, 2, 0]
    third = shard_reader.read_rank(rank_file(real / "fsdp2_of_3", 2, 3))
    assert len(third.pieces["model.norm.weight"].local) == 10  # of 32


def test_another_dtype_is_written_when_asked_for(real, whole, tmp_path):
    out = merge_shards(real / "fsdp1_of_1", tmp_path / "merged", dtype=torch.float32)
    merged = load_file(out / "model.safetensors")
    assert all(torch.equal(merged[name], whole[name]) for name in whole)


def test_a_merged_folder_is_taken_as_a_recovered_checkpoint(real, tmp_path):
    program = runpy.run_path(str(PROGRAM))
    given = write_tiny_checkpoint(tmp_path / "given", "qwen3", seed=1, **program["KEYS"])
    merged = merge_shards(real / "fsdp2_of_2", tmp_path / "merged")
    take_recovered(merged, given, tmp_path / "out")
    recovered, original = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "out", given)
    )
    trained = load_file(merged / "model.safetensors")
    assert recovered.keys() == original.keys()
    assert "lm_head.weight" not in recovered  # tied: in the shards, but not in the original
    assert all(torch.equal(recovered[name], trained[name]) for name in recovered)
    assert not torch.equal(recovered[KEYS_OF_LAYER], original[KEYS_OF_LAYER])


def test_tensors_that_share_their_memory_in_the_file_are_written_each(actor, tmp_path):
    remove_shards(actor)
    embeddings = torch.randn(4, 2).bfloat16()
    torch.save({"embed": embeddings, "lm_head": embeddings}, rank_file(actor, 0, 1))
    merged = load_file(merge_shards(actor, tmp_path / "merged") / "model.safetensors")
    assert torch.equal(merged["embed"], embeddings)
    assert torch.equal(merged["lm_head"], embeddings)


def test_large_models_go_into_files_of_bounded_size_with_an_index(real, whole, tmp_path):
    out = merge_shards(real / "fsdp2_of_2", tmp_path / "merged", file_bytes=20_000)
    checkpoint = open_checkpoint(out)
    assert checkpoint.tensors.keys() == whole.keys()
    assert len(checkpoint.files) > 2
    assert checkpoint.index.metadata["total_size"] == 2 * sum(t.numel() for t in whole.values())
    for file in checkpoint.files:
        tensors = load_file(out / file)
        assert sum(tensor.nbytes for tensor in tensors.values()) <= 20_000
        assert all(torch.equal(tensors[name], whole[name].bfloat16()) for name in tensors)


def test_config_and_tokenizer_come_along_but_no_old_weights(actor, tmp_path):
    beside = actor / "huggingface"
    (beside / "tokenizer.json").write_text("{}")
    (beside / "model-00001-of-00002.safetensors").write_text("of an earlier merge")
    (beside / "model.safetensors.index.json").write_text("{}")
    out = merge_shards(actor, tmp_path / "merged")
    assert {file.name for file in out.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert (out / "config.json").read_bytes() == (beside / "config.json").read_bytes()


def test_the_other_copies_of_the_model_need_not_be_there(real, whole, tmp_path):
    actor = Path(shutil.copytree(real / "fsdp2_of_2x2", tmp_path / "actor"))
    rank_file(actor, 2, 4).unlink()
    rank_file(actor, 3, 4).unlink()
    merged = load_file(merge_shards(actor, tmp_path / "merged") / "model.safetensors")
    assert all(torch.equal(merged[name], whole[name].bfloat16()) for name in whole)


def test_removing_shards_leaves_every_other_file(actor):
    kept = {actor / "huggingface", actor / "notes.pt", actor / "model_world_size_2_rank_0.pt.txt"}
    (actor / "notes.pt").touch()
    (actor / "model_world_size_2_rank_0.pt.txt").touch()
    assert len(list(actor.iterdir())) == 9
    remove_shards(actor)
    assert set(actor.iterdir()) == kept


def test_a_merged_folder_replaces_the_one_before(actor, tmp_path):
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "left over").touch()
    out = merge_shards(actor, tmp_path / "merged")
    assert not (out / "left over").exists()
    assert not list(tmp_path.glob("*.ptl-tmp"))


def test_the_shards_own_folder_is_not_replaced(actor):
    with pytest.raises(StageError, match="would be replaced") as error:
        merge_shards(actor, actor)
    assert str(actor) in one_line(error)
    assert rank_file(actor, 0).exists()


def test_a_folder_without_shards_is_refused(tmp_path):
    assert "has no file model_world_size_W_rank_R.pt" in refusal(tmp_path / "none", tmp_path)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_missing_rank_is_named(rank, actor, tmp_path):
    rank_file(actor, rank).unlink()
    text = refusal(actor, tmp_path)
    assert text.startswith(f"{rank_file(actor, rank)}: ")
    assert "missing" in text


def test_tensors_on_several_meshes_are_refused(real, actor, tmp_path):
    other = load(Path(real / "fsdp2_of_2x2"), world=4)["model.norm.weight"]
    other.device_mesh._rank_map = torch.arange(2)
    other.device_mesh._layout = type(other.device_mesh._layout)((2, 1), (1, 1))
    other.device_mesh._coordinate_on_dim = (0, 0)
    edit(actor, 0, lambda state: state.update({"model.norm.weight": other}))
    assert "its tensors lie on several meshes" in refusal(actor, tmp_path)


def test_shards_of_two_worlds_are_refused(actor, tmp_path):
    shutil.copy(rank_file(actor, 0), rank_file(actor, 0, 4))
    assert "of 2 and 4 ranks" in refusal(actor, tmp_path)


def test_a_file_of_another_world_under_this_ones_name_is_refused(real, actor, tmp_path):
    shutil.copy(rank_file(real / "fsdp2_of_2x2", 1, 4), rank_file(actor, 1))
    text = refusal(actor, tmp_path)
    assert text.startswith(f"{rank_file(actor, 1)}: was saved by rank 1 of 4")


def test_a_shard_under_another_ranks_name_is_refused(actor, tmp_path):
    shutil.copy(rank_file(actor, 0), rank_file(actor, 1))
    assert f"{rank_file(actor, 1)}: was saved by rank 0 of 2" in refusal(actor, tmp_path)


def test_a_missing_config_is_refused(actor, tmp_path):
    (actor / "huggingface" / "config.json").unlink()
    assert str(actor / "huggingface" / "config.json") in refusal(actor, tmp_path)


@pytest.mark.parametrize("lacking", [0, 1])
def test_a_tensor_that_one_rank_lacks_is_named(lacking, actor, tmp_path):
    edit(actor, lacking, lambda state: state.pop("model.norm.weight"))
    text = refusal(actor, tmp_path)
    assert text.startswith(f"{rank_file(actor, lacking)}: lacks 'model.norm.weight'")


@pytest.mark.parametrize("plain", [0, 1])
def test_a_rank_that_was_saved_whole_does_not_fit_one_that_was_cut(plain, actor, tmp_path):
    edit(actor, plain, lambda state: state.update({name: torch.ones(2) for name in state}))
    assert f"{rank_file(actor, 1)}: its ranks lie on another mesh" in refusal(actor, tmp_path)


def test_a_sharding_of_another_torch_is_refused_in_one_line(actor, tmp_path, monkeypatch):
    monkeypatch.delattr(DeviceMesh, "mesh_dim_names")  # as if this torch kept the names elsewhere
    text = refusal(actor, tmp_path)
    assert text.startswith(f"{rank_file(actor, 0)}: its sharding is not as torch")


def test_reading_says_nothing_of_the_missing_process_group(real, caplog):
    shard_reader.read_rank(rank_file(real / "fsdp2_of_2", 0))
    assert not caplog.text


@pytest.mark.parametrize("sizes", [(3, 3), (3, 2), (2, 2, 1), (2, 2, 2, 0), (1, 0, 0)])
@pytest.mark.parametrize("dim", [0, 1])
def test_pieces_of_uneven_sizes_are_joined(sizes, dim, fabricate, tmp_path):
    shape = [5, 5]
    shape[dim] = sum(sizes)
    w = torch.randn(shape)
    actor = fabricate([piece.clone() for piece in w.split(sizes, dim)], [Shard(dim)], shape=shape)
    merged = load_file(merge_shards(actor, tmp_path / "merged") / "model.safetensors")
    assert torch.equal(merged["w"], w.bfloat16())


def test_a_replicated_tensor_is_taken_once(fabricate, tmp_path):
    w = torch.randn(3, 2)
    w[0, 0] = float("nan")  # for take_recovered to report
    actor = fabricate([w, w.clone()], [Replicate()], shape=(3, 2))
    merged = load_file(merge_shards(actor, tmp_path / "merged") / "model.safetensors")
    assert torch.equal(merged["w"][1:], w[1:].bfloat16())
    assert merged["w"][0].isnan().tolist() == [True, False]


def test_copies_that_differ_are_refused(fabricate, tmp_path):
    actor = fabricate([torch.ones(2), torch.zeros(2)], [Replicate()], shape=(2,))
    assert "'w' is a whole tensor and differs" in refusal(actor, tmp_path)


def test_whole_integers_keep_their_dtype_and_need_no_mesh(actor, tmp_path):
    for rank in (0, 1):
        edit(actor, rank, lambda state: state.update(steps=torch.tensor([1, 2**40])))
    merged = load_file(merge_shards(actor, tmp_path / "merged") / "model.safetensors")
    assert merged["steps"].dtype == torch.int64
    assert merged["steps"].tolist() == [1, 2**40]


@pytest.mark.parametrize(
    ("placements", "mesh", "names"),
    [
        ([Partial()], (2,), ("fsdp",)),
        ([Shard(0), Shard(0)], (2, 1), ("ddp", "fsdp")),
    ],
)
def test_other_placements_are_refused(placements, mesh, names, fabricate, tmp_path):
    pieces = [torch.ones(2), torch.ones(2)]
    actor = fabricate(pieces, placements, shape=(4,), mesh=mesh, names=names)
    assert "'w' is placed as" in refusal(actor, tmp_path)


@pytest.mark.parametrize(
    ("mesh", "names"), [((2,), ("tp",)), ((2, 1), ("fsdp", "tp")), ((2,), None)]
)
def test_other_meshes_are_refused(mesh, names, fabricate, tmp_path):
    pieces = [torch.ones(2), torch.ones(2)]
    actor = fabricate(pieces, [Shard(0)] * len(mesh), shape=(4,), mesh=mesh, names=names)
    assert f"lie on a mesh of {names}" in refusal(actor, tmp_path)


def test_pieces_that_do_not_make_the_whole_are_refused(fabricate, tmp_path):
    actor = fabricate([torch.ones(3), torch.ones(3)], [Shard(0)], shape=(5,))
    assert "have the shapes [[3], [3]] and do not make [5]" in refusal(actor, tmp_path)


@pytest.mark.parametrize(("size", "placement"), [(4, Shard(1)), (3, Replicate())])
def test_a_piece_of_another_form_than_its_tensor_is_refused(size, placement, fabricate, tmp_path):
    shape = (2, 8) if placement.is_shard() else (4,)
    actor = fabricate([torch.ones(size)] * 2, [placement], shape=shape)
    assert f"'w' of {list(shape)} has a piece of [{size}]" in refusal(actor, tmp_path)


def test_tensors_that_want_gradients_are_merged_too(fabricate, tmp_path):
    pieces = [torch.ones(2, requires_grad=True), torch.zeros(2, requires_grad=True)]
    actor = fabricate(pieces, [Shard(0)], shape=(4,))
    for rank in (0, 1):
        edit(actor, rank, lambda state: state.update(p=torch.nn.Parameter(torch.ones(2))))
    out = merge_shards(actor, tmp_path / "merged", dtype=torch.float32)
    merged = load_file(out / "model.safetensors")
    assert merged["w"].tolist() == [1, 1, 0, 0]
    assert merged["p"].tolist() == [1, 1]


def test_a_tensor_cut_in_one_rank_alone_is_refused(actor, tmp_path):
    whole = torch.ones(32)
    edit(actor, 1, lambda state: state.update({"model.norm.weight": whole}))
    assert "'model.norm.weight' is a piece of [32]" in refusal(actor, tmp_path)


def test_a_full_disk_is_told_in_one_line(actor, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("verl_ext.fsdp_shards.save_file", full)
    assert "cannot be written ([Errno 28]" in refusal(actor, tmp_path)


def test_a_mesh_as_torch_saved_it_before_is_understood(real):
    mesh = next(iter(load(real / "fsdp2_of_2").values())).device_mesh
    old = object.__new__(type(mesh))
    table = torch.tensor([[0, 1], [2, 3]])
    vars(old).update(mesh=table, mesh_dim_names=("ddp", "fsdp"))
    assert shard_reader._mesh(old) == (("ddp", "fsdp"), table)
