"""How far is a result on simulated genomes from the best that any model could do?"""

import math
from collections.abc import Mapping
from typing import Any


def compare(
    truth: Mapping[str, Any],
    pretraining: Mapping[str, Any],
    evaluation: Mapping[str, Any],
) -> list[str]:
    """Lines that set bits per base and AUROC beside their exact optima.

    Args:
      truth: what `simulate.write_demo` returned.
      pretraining: pretrain/result.json. evaluation: evaluation/test/metrics.json.
    """
    best = truth["pretrain_validation"]
    bits = pretraining["model"]["validation_bits_per_base"]
    uniform = math.log2(4)
    auroc = evaluation["model"]["overall"]["auroc"]
    optimal = truth["bayes_auroc"]["test"]["all"]
    return [
        f"bits per base on validation genomes: {bits:.4f}; entropy rate of their source "
        f"{best['bits_per_base']:.4f} (standard error {best['standard_error']:.4f}), "
        f"uniform {uniform:.4f}",
        f"  above the entropy rate by {bits - best['bits_per_base']:+.4f}, below uniform by "
        f"{uniform - bits:.4f}",
        f"AUROC on test contigs: {auroc['value']:.4f} ({auroc['low']:.4f} to {auroc['high']:.4f}); "
        f"Bayes-optimal {optimal:.4f}",
    ]
