"Journals that people and editors have touched."

from hypothesis import given, strategies as st

from agentkit.core.store import Journal

values = st.dictionaries(st.text(max_size=3), st.one_of(st.text(max_size=5), st.integers(), st.none()), max_size=3)


@given(st.lists(values, min_size=1, max_size=4), st.integers(0, 40))
def test_only_what_is_not_json_is_torn(tmp_path_factory, rows, cut):
    "However much of the last line is left: it is a row when it is whole, and nothing else is lost."
    journal = Journal(tmp_path_factory.mktemp('journal') / 'j.jsonl')
    for row in rows:
        journal.append(row)
    content = journal.path.read_bytes()
    last = len(content) - content[:-1].rfind(b'\n') - 1
    cut = min(cut, last)
    journal.path.write_bytes(content[: len(content) - cut])
    left = rows if cut <= 1 else rows[:-1]
    assert journal.rows() == left
    journal.append({'n': 1})
    assert journal.rows() == [*left, {'n': 1}] and journal.path.read_bytes().endswith(b'\n')
