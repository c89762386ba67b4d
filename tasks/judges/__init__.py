"""The judges, one small file each."""

from tasks.judges import harm, refusal
from tasks.judges.opinion import Rubric, Rule

JUDGES: dict[str, Rule | Rubric] = {j.name: j for j in (refusal.JUDGE, harm.JUDGE)}
