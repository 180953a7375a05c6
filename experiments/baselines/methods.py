"""What the table and the plot say of a preset besides its numbers: family and paper."""

from __future__ import annotations

from dataclasses import dataclass

from binllm.figures.style import Family

ROUNDING = Family("round to nearest, XNOR", "o", "#7a7a7a")
GPTQ = Family("GPTQ", "s", "#000000")
PB_LLM = Family("PB-LLM", "^", "#cc79a7")
BILLM = Family("BiLLM", "D", "#e69f00")
ARB = Family("ARB-LLM", "v", "#0072b2")
HBLLM = Family("HBLLM", "P", "#009e73")
ONE_PLANE = Family("one plane", "h", "#56b4e9")
OUTPUT = Family("Rethinking Output Alignment", "X", "#882255")  # from Tol's palette, to be dark enough
BINLLM = Family("binllm", "*", "#d55e00")


@dataclass(frozen=True)
class Method:
    """Where a preset comes from.

    Attributes:
        family: Its family.
        title: The method's name.
        arxiv: Id of its paper; None where it has none.
    """

    family: Family
    title: str
    arxiv: str | None = None


METHODS = {  # every preset of conf/method, swept or not
    "rtn": Method(ROUNDING, "round to nearest"),
    "rtn_128": Method(ROUNDING, "round to nearest"),
    "xnor": Method(ROUNDING, "XNOR", "1603.05279"),
    "gptq_1bit": Method(GPTQ, "GPTQ", "2210.17323"),
    "gptq_2bit": Method(GPTQ, "GPTQ", "2210.17323"),
    "gptq_2bit_clipped": Method(GPTQ, "GPTQ, clipped grid", "2210.17323"),
    "pb_llm": Method(PB_LLM, "PB-LLM", "2310.00034"),
    "pb_llm_magnitude": Method(PB_LLM, "PB-LLM", "2310.00034"),
    "billm": Method(BILLM, "BiLLM", "2402.04291"),
    "billm_uncompensated": Method(BILLM, "BiLLM", "2402.04291"),
    "billm_magnitude": Method(BILLM, "BiLLM", "2402.04291"),
    "billm_magnitude_uncompensated": Method(BILLM, "BiLLM", "2402.04291"),
    "arb": Method(ARB, "ARB", "2410.03129"),
    "arb_cgb": Method(ARB, "ARB", "2410.03129"),
    "arb_x": Method(ARB, "ARB-X", "2410.03129"),
    "arb_x_cgb": Method(ARB, "ARB-X", "2410.03129"),
    "arb_rc": Method(ARB, "ARB-RC", "2410.03129"),
    "arb_rc_cgb": Method(ARB, "ARB-RC", "2410.03129"),
    "hbllm_row": Method(HBLLM, "HBLLM-row", "2512.00862"),
    "hbllm_column": Method(HBLLM, "HBLLM-column", "2512.00862"),
    "one_plane": Method(ONE_PLANE, "one sign plane"),
    "paper": Method(OUTPUT, "Rethinking Output Alignment", "2512.21651"),
    "best": Method(BINLLM, "this project"),
    "q1_0": Method(BINLLM, "this project, for llama.cpp"),
}

ASYMMETRIC = {"qep": "QEP", "gptaq": "GPTAQ"}  # 2504.09629, 2504.02692
