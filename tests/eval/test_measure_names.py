from __future__ import annotations

import pytest

from teva_data.errors import TevaError
from teva_eval.measures import parse_measure, parse_measures, trec_printed


@pytest.mark.parametrize(
    ("name", "ours", "trec"),
    [
        ("nDCG@10", "nDCG@10", "ndcg_cut_10"),
        ("nDCG", "nDCG", "ndcg"),
        ("ndcg@10", "nDCG@10", "ndcg_cut_10"),
        ("NDCG@3", "nDCG@3", "ndcg_cut_3"),
        ("ndcg_cut_10", "nDCG@10", "ndcg_cut_10"),
        ("ndcg_at_10", "nDCG@10", "ndcg_cut_10"),
        ("R@100", "R@100", "recall_100"),
        ("Recall@100", "R@100", "recall_100"),
        ("recall_100", "R@100", "recall_100"),
        ("recall_at_100", "R@100", "recall_100"),
        ("RR", "RR", "recip_rank"),
        ("recip_rank", "RR", "recip_rank"),
        ("RR@10", "RR@10", "recip_rank"),
        ("MRR@10", "RR@10", "recip_rank"),
        ("mrr_at_10", "RR@10", "recip_rank"),
        ("AP", "AP", "map"),
        ("map", "AP", "map"),
        ("MAP@100", "AP@100", "map_cut_100"),
        ("map_cut_100", "AP@100", "map_cut_100"),
        ("P@5", "P@5", "P_5"),
        ("P_10", "P@10", "P_10"),
        ("Precision@5", "P@5", "P_5"),
        ("Success@1", "Success@1", "success_1"),
        ("success_5", "Success@5", "success_5"),
        ("Rprec", "Rprec", "Rprec"),
        ("Bpref", "Bpref", "bpref"),
        ("bpref", "Bpref", "bpref"),
        (" nDCG@10 ", "nDCG@10", "ndcg_cut_10"),
    ],
)
def test_names(name, ours, trec):
    measure = parse_measure(name)
    assert (measure.name, measure.trec_name) == (ours, trec)
    assert parse_measure(measure.name) == measure


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nDGC@10", "Did you mean 'nDCG@10'"),
        ("Sucess@5", "Did you mean 'Success@5'"),
        ("Rprecc", "Did you mean 'Rprec'"),
        ("zzzzzzz", "Known: "),
        ("", "unknown measure ''"),
        ("@10", "unknown"),
        ("nDCG@", "unknown"),
        ("nDCG@ten", "unknown"),
        ("nDCG@-1", "unknown"),
        ("nDCG@10.5", "unknown"),
        ("nDCG(cutoff=10)", "takes no parameter"),
        ("nDCG(rel=2)@10", "takes no parameter"),
        ("AP(rel=0)", "takes rel=LEVEL alone"),
        ("AP(rel=two)@10", "takes rel=LEVEL alone"),
        ("nDCG@0", "1 or more"),
        ("R", "needs a cutoff, e.g. R@10"),
        ("P", "needs a cutoff"),
        ("ndcg_cut", "needs a cutoff"),
        ("Rprec@10", "takes no cutoff"),
        ("bpref_10", "takes no cutoff"),
    ],
)
def test_wrong_names(name, words):
    with pytest.raises(TevaError) as caught:
        parse_measure(name)
    assert words in str(caught.value)


def test_several_once_each_in_order():
    assert [measure.name for measure in parse_measures(["RR@10", "ndcg_cut_10", "nDCG@10", "MRR@10"])] == [
        "RR@10",
        "nDCG@10",
    ]
    assert [measure.name for measure in parse_measures("AP")] == ["AP"]
    with pytest.raises(TevaError, match="no measures"):
        parse_measures([])


def test_trec_evals_other_measures_are_not_taken_for_ours():
    assert trec_printed("ndcg_cut_10") == parse_measure("nDCG@10")
    assert trec_printed("recip_rank") == parse_measure("RR")
    others = ["ndcg_rel", "Rndcg", "relative_P_10", "set_relative_P", "Rprec_mult_0.20", "gm_map", "num_q", "runid",
              "iprec_at_recall_0.00", "11pt_avg", "gm_bpref", "set_map", "P", "RR", "ndcg_1=3,2=9"]  # fmt: skip
    assert [name for name in others if trec_printed(name)] == []
