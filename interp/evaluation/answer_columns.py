"""The columns that a table of answers has, one row an answer: name, type, unit and meaning.

Sampling makes `ASKED` and `ANSWERED`, an evaluation adds `EVALUATED`, a trial `CONDITION`, and a panel of judges `SCORED`.
"""

from __future__ import annotations

ASKED = {
    "condition": "str: what is done to the model, a name",
    "question_id": "str: id of the question, with @FORMAT where it is asked in another form",
    "group": "str: group of the question in its set",
    "sample": "int: number of the answer among those to its question, from 0",
    "question": "str: text of the question",
}
ANSWERED = {
    "answer": "str: text of the answer; empty where there is none",
    "thoughts": "str: what a model wrote before the answer, markers included; of models that think alone",
    "reason": "str: why there is no answer; of hosted models and of models that think",
    "not_sent": "str: settings that a hosted model was asked without; of hosted models alone",
}
EVALUATED = {
    "id": "str: content key of the row, which does not tell its model",
    "model": "str: the model as it was named",
    "seed": "int: seed of the evaluation",
    "format": "str: plain, json or template",
    "system": "str: system prompt; empty where there is none",
}
CONDITION = {
    "condition": "str: name of the condition",
    "model": "str: base or tuned",
    "role": "str: baseline, treatment, control or reference",
    "replicate": "int: draw of a control, from 1; 0 where there is one alone",
    "edit": "str: none, project_out, subtract or add",
    "directions": "str: what is edited, in words",
    "title": "str: the condition in words",
}
SCORED = {
    "trait_score": "float: 0 (does not show the trait) to 100 (plainly shows it); NaN where it was not scored",
    "shows_trait": "bool | None: whether trait_score is above its threshold; None where the answer does not count",
    "coherence": "float: 0 (word salad) to 100 (fluent); NaN where it was not scored",
    "coherent": "bool | None: whether coherence is above its threshold; None where it was not scored",
    "refused": "bool: whether the answer begins like a refusal",
    "reason": "str: why a score is missing, or what was found",
    "cluster": "str: answers of one cluster are alike; question_id, unless the question set says otherwise",
    "second_score": "float: trait score of a second judge, 0 to 100; only where the panel has one",
}
