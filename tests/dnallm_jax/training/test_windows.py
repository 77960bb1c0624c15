"""Are baselines fitted on windows of every length that a member of the detector trains on?"""

import pathlib
from collections import Counter

from dnallm_jax.config import Config, default_config, resolve
from dnallm_jax.training.windows import baseline_windows, composition_settings
from tests.dnallm_jax.bundles import write_contigs


def config(**composition: object) -> Config:
    c = default_config()
    c.finetune.lengths = (60, 120)
    c.finetune.length_weights = (1.0, 3.0)
    for key, value in composition.items():
        c.composition[key] = value
    return resolve(c)


def test_windows_of_the_lengths_of_all_members(tmp_path: pathlib.Path) -> None:
    contigs = write_contigs(tmp_path)
    windows, labels = baseline_windows(config(steps=1, lengths=(90, 120)), contigs, 6)
    assert Counter(map(len, windows)) == {60: 6, 90: 6, 120: 6}
    assert labels.tolist() == [0, 1] * 9
    alone, _ = baseline_windows(config(steps=0, lengths=(90,)), contigs, 4)
    assert Counter(map(len, alone)) == {60: 4, 120: 4}


def test_networks_on_composition_are_the_same_beside_one_gpt_and_several() -> None:
    """They would be refused as another config's, and trained again, once seeds are added."""
    recipe = default_config()
    recipe.composition.steps = 1
    alone = composition_settings(resolve(recipe))
    recipe.finetune.seeds, recipe.finetune.ensemble = 2, True
    assert composition_settings(resolve(recipe)) == alone
