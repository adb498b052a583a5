"Rows that a model of the smallest size learns in a moment."


def episode(thing, place, n=3):
    messages = [
        dict(role='system', content='Play the game.'),
        dict(role='user', content=f'Your task is to: put the {thing} on the {place}.'),
    ]
    for i in range(n):
        messages += [
            dict(role='assistant', content=f'go to {place} {i + 1}'),
            dict(role='user', content=f'On the {place} {i + 1}, you see a {thing} {i}.'),
        ]
    return dict(messages=messages + [dict(role='assistant', content=f'take {thing} {n} from {place} {n}')])


GAMES = [episode(t, p, n) for t in ('mug', 'book', 'key') for p, n in (('shelf', 2), ('desk', 4), ('drawer', 6))]
DESKS = [
    dict(
        messages=[
            dict(role='user', content=f'Find the mug {i}. You see a desk 1.'),
            dict(role='assistant', content='go to desk 1'),
        ]
    )
    for i in range(4)
]
