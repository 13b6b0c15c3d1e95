"""`ptl profile` without its command line: a checkpoint and a corpus become a scores file."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptl_plugins.errors import PruneError, PTLError
from ptl_plugins.families import Family, find_family
from ptl_plugins.geometry import Geometry, geometry
from ptl_plugins.model_config import model_folder, read_config
from ptl_plugins.ranks import Ranks, require_equal
from ptl_plugins.registry import Registry

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ptl_plugins.calibration import Batches
    from ptl_plugins.criteria import Statistic
    from ptl_plugins.profile_journal import FileJournal
    from ptl_plugins.second_moments import MomentFolder
    from ptl_plugins.types import Scores

Report = Callable[[str, int, int], None]
"""(what is running, batches done, batches in all)."""
PARTIAL_SUFFIX = ".ptl-part"
"""Of the files beside the scores that a killed profile goes on from."""
MOMENTS_LOCK = f"lock{PARTIAL_SUFFIX}"
"""In the folder of second moments, while they are written."""


OTHER = {
    "data_digest": "of other data (or of other --samples, --max-length, --seed)",
    "model_digest": "of another model",
    "protect_digest": "with another --protect corpus, or with none,",
}
"""What is the matter with scores whose digest is another one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProfileRequest:
    """What to profile, and on which text."""

    model: str
    data: str
    out: Path
    samples: int = 128
    max_length: int = 1024
    batch_tokens: int = 2048
    second_moments: Path | None = None
    gradients: bool = False
    """Whether the statistics that take a backward pass are gathered as well."""
    protect: str | None = None
    column: str = "text"
    template: str | None = None
    split: str = "train"
    seed: int = 0
    family: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Work:
    """A request with its model, its tokens and its digests."""

    request: ProfileRequest
    folder: Path
    family: Family
    geometry: Geometry
    sequences: Sequence[Sequence[int]]
    protected: Sequence[Sequence[int]]
    statistics: Sequence[Statistic]
    about: dict[str, str]
    ranks: Ranks
    report: Report


def run_profile(
    request: ProfileRequest, registry: Registry, ranks: Ranks, report: Report
) -> tuple[Scores, bool]:
    """Profile the model and write the scores; return them and whether they were there already.

    The same request again goes on where a killed one was, or finds its work done.

    Raises:
        PTLError: model or data cannot be used, or `out` or the folder of second moments holds
            something else, or cannot be written.
    """
    work = _prepare(request, registry, ranks, report)
    require_equal(ranks, repr(work.about), "model and data")
    earlier = _earlier_scores(work)
    with _alone(work, earlier):
        scores = _gather(work, earlier)
        if ranks.rank == 0 and earlier is None:
            from ptl_plugins.scores_file import write_scores

            write_scores(request.out, scores, work.about)
        ranks.barrier()
        _remove_partial(work)
    return scores, earlier is not None


@contextmanager
def _alone(work: _Work, earlier: Scores | None) -> Iterator[None]:
    """Keep other profiles from the files that the main rank is about to write.

    Raises:
        RunFolderError: another process writes them.
    """
    from ptl_plugins.run_lock import sole_writer

    request = work.request
    places: list[Path] = []
    if work.ranks.rank == 0 and earlier is None:
        _make_folder(request.out.parent, "--out")
        places.append(request.out.with_name(f"{request.out.name}.lock{PARTIAL_SUFFIX}"))
    if work.ranks.rank == 0 and request.second_moments and _needs_moments(work):
        _make_folder(request.second_moments, "--second-moments")
        places.append(request.second_moments / MOMENTS_LOCK)
    with ExitStack() as held:
        for place in places:
            held.enter_context(sole_writer(place))
        yield


def _needs_moments(work: _Work) -> bool:
    moments = _moments(work)
    assert moments is not None
    return not all(moments.has(layer) for layer in range(work.geometry.num_layers))


def _prepare(request: ProfileRequest, registry: Registry, ranks: Ranks, report: Report) -> _Work:
    from ptl_plugins.model_digest import model_digest
    from ptl_plugins.profile_model import load_tokenizer
    from ptl_plugins.sound_weights import require_sound
    from ptl_plugins.text_data import data_digest

    folder = model_folder(request.model)
    config = read_config(str(folder))
    family = find_family(registry, config, request.family)
    sizes = geometry(config, family)
    digest = model_digest(require_sound(folder))
    tokenizer, vocab = load_tokenizer(folder), config.get("vocab_size")
    sequences = _sequences(request, request.data, tokenizer, vocab)
    protected = _sequences(request, request.protect, tokenizer, vocab) if request.protect else []
    about = {"model_digest": digest, "data_digest": data_digest(sequences)}
    if request.protect:
        about["protect_digest"] = data_digest(protected)
    return _Work(
        request=request,
        folder=folder,
        family=family,
        geometry=sizes,
        sequences=sequences,
        protected=protected,
        statistics=_statistics(request, registry),
        about=about,
        ranks=ranks,
        report=report,
    )


def _statistics(request: ProfileRequest, registry: Registry) -> tuple[Statistic, ...]:
    """Return what every criterion needs; gradients cost a backward pass, so they are asked for."""
    from ptl_plugins.criteria import forward_statistics, needed_statistics

    statistics = needed_statistics([criterion for _, criterion in registry.criteria.items()])
    return statistics if request.gradients else forward_statistics(statistics)


def _sequences(
    request: ProfileRequest, data: str, tokenizer: PreTrainedTokenizerBase, vocab: Any
) -> list[list[int]]:
    from ptl_plugins.profile_model import require_known_tokens
    from ptl_plugins.text_data import encode_texts

    if data == request.data:
        texts = _texts(request, data, request.column, request.template, request.split)
    else:
        texts = _protect_texts(request, data)
    sequences = encode_texts(texts, tokenizer, max_length=request.max_length)
    if not any(sequences):
        raise PTLError(f"data '{data}': the tokenizer makes no token of its texts; give other data")
    require_known_tokens(f"data '{data}'", sequences, tokenizer, vocab)
    return sequences


def _texts(
    request: ProfileRequest, data: str, column: str, template: str | None, split: str
) -> list[str]:
    from ptl_plugins.text_data import read_texts

    return read_texts(
        data,
        column=column,
        template=template,
        split=split,
        number=request.samples,
        seed=request.seed,
    )


def _protect_texts(request: ProfileRequest, data: str) -> list[str]:
    """Return the second corpus' texts; column, template and split are those of the first."""
    try:
        return _texts(request, data, "text", None, "train")
    except PTLError as error:
        raise PTLError(f"--protect (whose column has to be 'text'): {error}") from error


def _earlier_scores(work: _Work) -> Scores | None:
    """Return the scores that are in `out` already.

    Raises:
        PruneError: they are of another model or other data, or no scores at all.
    """
    from ptl_plugins.scores_file import read_scores

    out = work.request.out
    if not out.exists():
        return None
    try:
        scores, about = read_scores(out)
    except PruneError as error:
        raise PruneError(
            f"--out {out}: is there already, and is no scores file; name another, or remove it"
        ) from error
    missing = [s.name for s in work.statistics if s.name not in scores.statistics]
    different = sorted(k for k in work.about | about if work.about.get(k) != about.get(k))
    if different:
        what = OTHER.get(different[0], "of other work")
    elif missing:
        what = f"without the statistic '{missing[0]}'"
    else:
        return scores
    raise PruneError(
        f"{out}: holds scores {what} already; name another file with --out, or remove it"
    )


def _gather(work: _Work, earlier: Scores | None) -> Scores:
    from ptl_plugins.profiling import profile

    moments = _moments(work)
    missing = _missing(work, moments) if moments else []
    if earlier is not None and not missing:
        return earlier
    _make_folder(work.request.out.parent, "--out")
    if moments and missing:
        _make_folder(moments.path, "--second-moments")
        _require_space(moments.path, 4 * work.geometry.width**2 * len(missing))
    model = _load(work)
    protect = _protect_scores(work, model) if work.protected and earlier is None else None
    scores = profile(
        model,
        work.family,
        _batches(work, model, work.sequences),
        work.statistics if earlier is None else (),
        work.ranks,
        moments=moments,
        journal=_journal(work, ""),
    )
    _require_finite(work, scores)
    return earlier or replace(scores, protect=protect)


def _moments(work: _Work) -> MomentFolder | None:
    from ptl_plugins.second_moments import MomentFolder

    if work.request.second_moments is None:
        return None
    about = {key: work.about[key] for key in ("model_digest", "data_digest")}
    return MomentFolder(path=work.request.second_moments, about=about)


def _missing(work: _Work, moments: MomentFolder) -> list[int]:
    """Return the layers whose moments are still to be made, as the main rank sees it."""
    layers = [i for i in range(work.geometry.num_layers) if not moments.has(i)]
    missing: list[int] = work.ranks.gather(layers)[0]
    return missing


def _make_folder(folder: Path, option: str) -> None:
    """Make `folder`, and see that it can be written to, before the work and not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PTLError(
            f"{option}: the folder {folder} cannot be made ({error.strerror}); name another"
        ) from error
    if not os.access(folder, os.W_OK):
        raise PTLError(f"{option}: the folder {folder} cannot be written to; name another")


def _require_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise PTLError(
            f"--second-moments: {folder}: the second moments need {num_bytes} bytes, {free} are "
            "free; make room, or name a folder on another disk"
        )


def _protect_scores(work: _Work, model: PreTrainedModel) -> Scores:
    """Profile the second corpus, or take what a killed try had finished of it."""
    from ptl_plugins.profiling import profile
    from ptl_plugins.scores_file import read_scores, write_scores

    path = _protect_file(work.request.out)
    statistics = [s for s in work.statistics if s.site != "layer"]
    with suppress(PruneError):  # not there, or not whole
        scores, about = read_scores(path)
        if about == work.about and all(s.name in scores.statistics for s in statistics):
            return scores
    batches, journal = _batches(work, model, work.protected), _journal(work, "protect")
    scores = profile(model, work.family, batches, statistics, work.ranks, journal=journal)
    _require_finite(work, scores)
    if work.ranks.rank == 0:
        write_scores(path, scores, work.about)
    work.ranks.barrier()
    return scores


def _require_finite(work: _Work, scores: Scores) -> None:
    """Refuse statistics from which no prune can choose."""
    import numpy as np

    wrong = [
        (layer, name)
        for name, values in scores.statistics.items()
        for layer, row in enumerate(values)
        if not np.isfinite(row).all()
    ]
    for layer, name in sorted(wrong)[:1]:
        raise PTLError(
            f"{work.folder}: statistic '{name}' of layer {layer} is not finite: the model or its "
            "weights are damaged; download or copy the checkpoint again"
        )


def _protect_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.protect{PARTIAL_SUFFIX}")


def _remove_partial(work: _Work) -> None:
    """Delete what a killed try would go on from, also that of tries with more ranks."""
    from ptl_plugins.durable import remove_leftovers
    from ptl_plugins.tensor_file import remove

    out = work.request.out
    for name in ("", "protect"):
        _journal(work, name).close()
    own = re.escape(out.name) + rf"\.(\d+|lock|protect\d*){re.escape(PARTIAL_SUFFIX)}(\.ptl-tmp)?"
    for file in out.parent.iterdir() if work.ranks.rank == 0 else ():
        if re.fullmatch(own, file.name):
            remove(file)
    moments = work.request.second_moments
    if work.ranks.rank == 0 and moments and moments.is_dir():
        remove_leftovers(moments)
        (moments / MOMENTS_LOCK).unlink(missing_ok=True)


def _journal(work: _Work, name: str) -> FileJournal:
    from ptl_plugins.profile_journal import FileJournal

    out, ranks = work.request.out, work.ranks
    layout = {"batch_tokens": str(work.request.batch_tokens), "ranks": str(ranks.size)}
    return FileJournal(
        out.with_name(f"{out.name}.{name}{ranks.rank}{PARTIAL_SUFFIX}"),
        work.about | layout,
        report=lambda done, total: work.report(name or "profile", done, total),
    )


def _batches(work: _Work, model: PreTrainedModel, sequences: Sequence[Sequence[int]]) -> Batches:
    from ptl_plugins.calibration import rank_batches

    budget, device = work.request.batch_tokens, next(model.parameters()).device
    return rank_batches(sequences, work.ranks, batch_tokens=budget, device=device)


def _load(work: _Work) -> PreTrainedModel:
    from ptl_plugins.profile_model import load_model

    return load_model(work.folder, work.family)
