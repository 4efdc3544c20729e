"""Verse from a small stock of lines: iambic tetrameter, or octosílabos in Spanish, rhymed abab."""

import random
import re
from collections.abc import Iterator

STANZAS = 3

# Each group rhymes. {n} is a noun of one syllable that begins with a consonant.
ENGLISH = (
    (
        "A single {n} against the light",
        "And every {n} is silver-bright",
        "The {n} is older than the night",
        "Until the {n} is out of sight",
    ),
    (
        "The {n} has nothing more to say",
        "And soon the {n} is far away",
        "It keeps the {n} of yesterday",
        "The morning finds the {n} in grey",
    ),
    (
        "The {n} hangs quiet in the air",
        "And no one asks what brought it there",
        "As if the {n} had time to spare",
        "A little {n}, a little care",
    ),
    (
        "The {n} knows more than we can know",
        "The minutes pass it, soft and slow",
        "Beside the {n} the lanterns glow",
        "A voice went by here long ago",
    ),
    (
        "The {n} is all that we can hear",
        "And far-off things are drawing near",
        "It comes again from year to year",
        "A {n}, a window, cold and clear",
    ),
    (
        "And then the {n} begins to sing",
        "A bright and most unlikely thing",
        "The {n} remembers every spring",
        "We wait for what the {n} may bring",
    ),
    (
        "The {n} goes by without a sound",
        "What had been lost is nearly found",
        "It lays its shadow on the ground",
        "The {n}, the sky, the world go round",
    ),
    (
        "The {n} has turned from grey to gold",
        "A story that was never told",
        "And we so young, the {n} so old",
        "Too bright a thing for hands to hold",
    ),
)

SPANISH = (
    (
        "Todo queda iluminado",
        "Por el viento enamorado",
        "Como un sueño recordado",
        "Y el camino está callado",
    ),
    (
        "Cuando apenas nace el día",
        "Con su lenta melodía",
        "Lo que ayer nadie veía",
        "Vuelve a casa la alegría",
    ),
    (
        "Una hoja sobre el viento",
        "Va cantando el pensamiento",
        "Se detiene en un momento",
        "Y respira, dulce y lento",
    ),
    (
        "En el fondo, la ternura",
        "Una luz pequeña y pura",
        "Con paciencia y con dulzura",
        "Toda noche es aventura",
    ),
    (
        "Un jardín de mil colores",
        "Y la lluvia con sus flores",
        "Sin relojes ni temores",
        "Los más viejos resplandores",
    ),
    (
        "Todo vuelve del olvido",
        "Y se queda aquí dormido",
        "Como un pájaro en su nido",
        "Casi nada, casi un ruido",
    ),
)

# What a theme speaks of → its nouns. The first that fits is taken.
NOUNS = (
    (r"sea|ocean|lighthouse|harbou?r|boat|ship|wave", ("tide", "wave", "foam", "sail", "gull", "shore")),
    (r"snow|winter|ice|frost", ("frost", "flake", "drift", "pine", "breath", "hush")),
    (r"train|bus|road|journey|station", ("rail", "wheel", "track", "bell", "door", "mile")),
    (r"rain|storm|roof", ("drop", "roof", "cloud", "pane", "stream", "street")),
    (r"garden|flower|tree|spring|june", ("leaf", "seed", "bee", "rose", "root", "bough")),
    (r"letter|map|book|word", ("page", "line", "word", "name", "pen", "stamp")),
    (r"star|moon|night|sky", ("star", "moon", "cloud", "dream", "dark", "spark")),
    (r"bread|kitchen|home|house", ("crust", "loaf", "hearth", "flame", "cup", "door")),
    (r"city|street|town", ("street", "lamp", "tram", "square", "crowd", "glass")),
    (r"kite|wind|bird|march", ("wind", "string", "hill", "kite", "lark", "cloud")),
    (r"", ("wind", "stone", "road", "song", "hand", "bird")),
)


def compose(theme: str, spanish: bool = False) -> str:
    """Return a titled poem as Markdown; the same theme gives the same poem."""
    chance = random.Random(theme.lower())  # noqa: S311 the theme is the seed
    groups = SPANISH if spanish else ENGLISH
    nouns = _nouns(theme, chance)
    pairs = chance.sample(groups, 2 * STANZAS)
    stanzas = [
        _stanza(first, second, nouns, chance) for first, second in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    return "\n\n".join([f"**{theme[:1].upper()}{theme[1:]}**", *stanzas])


def _stanza(
    first: tuple[str, ...], second: tuple[str, ...], nouns: Iterator[str], chance: random.Random
) -> str:
    odd, even = chance.sample(first, 2), chance.sample(second, 2)
    lines = [odd[0] + ",", even[0] + ";", odd[1] + ",", even[1] + "."]
    return "\n".join(re.sub(r"\{n\}", lambda _: next(nouns), line) for line in lines)


def _nouns(theme: str, chance: random.Random) -> Iterator[str]:
    """Yield the nouns of a theme in a random order, over and over."""
    fitting = next(nouns for pattern, nouns in NOUNS if re.search(rf"\b(?:{pattern})", theme.lower()))
    while True:
        yield from chance.sample(fitting, len(fitting))
