"""The words of the demo's world."""

from __future__ import annotations

__all__ = [
    "ADJECTIVES",
    "ANIMALS",
    "ARTISTS",
    "CAPITALS",
    "COLOURED",
    "COLOURS",
    "DAYS",
    "FRUITS",
    "ITEMS",
    "LEGS",
    "MONTHS",
    "NAMES",
    "OPPOSITES",
    "PLACES",
    "PLAIN_WORDS",
    "ROOMS",
]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = _words("January February March April May June July August September October November December")
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "orange", "pink", "grey")

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon", "Austria": "Vienna",
    "Poland": "Warsaw", "Norway": "Oslo", "Sweden": "Stockholm", "Denmark": "Copenhagen", "Finland": "Helsinki", "Greece": "Athens",
    "Hungary": "Budapest", "Ireland": "Dublin", "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi", "Egypt": "Cairo",
    "Kenya": "Nairobi", "Peru": "Lima", "Chile": "Santiago", "Cuba": "Havana", "Canada": "Ottawa", "Russia": "Moscow",
    "Turkey": "Ankara", "Belgium": "Brussels", "Morocco": "Rabat", "Nepal": "Kathmandu", "Iceland": "Reykjavik", "Argentina": "Buenos Aires",
    "Thailand": "Bangkok", "England": "London", "Scotland": "Edinburgh", "Ukraine": "Kyiv", "Croatia": "Zagreb", "Australia": "Canberra",
}  # fmt: skip

COLOURED = {
    "a banana": "yellow", "snow": "white", "grass": "green", "a tomato": "red", "the sky": "blue", "coal": "black", "milk": "white",
    "blood": "red", "a lemon": "yellow", "a carrot": "orange", "chocolate": "brown", "the sun": "yellow", "the sea": "blue", "a leaf": "green",
    "an elephant": "grey", "a frog": "green", "a swan": "white", "a strawberry": "red", "a pig": "pink", "a raven": "black", "a cucumber": "green",
    "salt": "white", "the night": "black", "a fire engine": "red",
}  # fmt: skip

OPPOSITES = {
    "hot": "cold", "big": "small", "up": "down", "left": "right", "day": "night", "fast": "slow", "old": "young", "happy": "sad",
    "open": "closed", "full": "empty", "light": "dark", "wet": "dry", "long": "short", "high": "low", "rich": "poor", "hard": "soft",
    "early": "late", "good": "bad", "loud": "quiet", "strong": "weak", "true": "false", "clean": "dirty", "thick": "thin", "near": "far",
}  # fmt: skip

LEGS = {
    "spider": 8,
    "dog": 4,
    "cat": 4,
    "horse": 4,
    "bird": 2,
    "ant": 6,
    "bee": 6,
    "chicken": 2,
    "snake": 0,
    "cow": 4,
    "fly": 6,
    "fish": 0,
}

NAMES = _words("Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Karla Leo Maria Noah Olga Paul Rosa Simon Tina Victor Wanda Yara Adam Bella "
    "Carlos Diana Erik Fiona Georg Hana Igor Julia Kevin Laura Max Nora Otto Petra Robert Sofia Tom Uma Vera Walter Alice Bob Chris Dora "
    "Elias Frank Gina Henry Iris Jack Kate Lucas Mila Nick Oliver Peggy Ralf Sam Theo Ursula Viola Will Zoe Amir Bruno Chloe Dario Esther "
    "Farid Gloria Hector Irene Jamal Kenji Lina Marco Nadia Omar Paula Rita Stefan Tanya Robin Lena Pedro Ivan Nina Sara Marta Oskar Momo Luigi")  # fmt: skip

ANIMALS = _words(
    "dog cat horse cow pig sheep goat duck hen fox wolf bear lion tiger mouse rat rabbit frog snake bird owl eagle fish whale shark bee ant "
    "spider camel monkey elephant giraffe zebra deer donkey squirrel hedgehog turtle penguin seal swan raven parrot hamster"
)
FRUITS = _words(
    "apples pears plums bananas oranges lemons cherries grapes peaches melons figs mangos kiwis berries nuts dates limes"
)
ITEMS = _words(
    "bicycle lamp kettle chair table book pen cup plate knife hat coat shirt shoe bag box clock phone radio guitar piano drum ball kite "
    "mirror basket bottle blanket pillow candle ladder hammer spoon fork carpet curtain bucket brush comb ring watch camera tent rope"
)
PLACES = _words("museum shop library bakery station school bank park market cinema theatre hotel zoo pool post castle cafe gym")
ROOMS = _words("kitchen hall bedroom bathroom garage cellar attic office garden balcony nursery study")
ARTISTS = _words("Bach Mozart Beethoven Chopin Vivaldi Handel Haydn Schubert Verdi Brahms Liszt Mahler Grieg Dvorak Ravel Satie")
ADJECTIVES = _words(
    "brave little old clever kind shy happy hungry lazy quick quiet gentle proud curious tired sleepy funny lonely"
)

PLAIN_WORDS = _words(
    "apple pear grape plum cherry lemon orange banana melon peach berry bread butter cheese milk honey sugar salt pepper coffee tea water "
    "juice soup cake candy rice corn bean potato tomato onion carrot salad meat egg garden flower rose tree leaf grass forest river lake "
    "ocean island beach mountain valley desert field farm village city street road bridge tower castle house home door window roof wall "
    "floor stairs room kitchen table chair lamp bed mirror clock picture book paper pencil letter word story poem song music dance guitar "
    "piano drum violin flute sun moon star planet rocket cloud rain snow wind storm thunder summer winter spring autumn morning evening "
    "night day week month year minute second hour time king queen prince knight dragon giant wizard pirate sailor doctor teacher farmer "
    "baker driver pilot painter singer friend mother father sister brother child baby uncle cousin dog cat horse tiger lion monkey camel "
    "rabbit turtle spider eagle parrot penguin dolphin whale shark gold silver copper iron stone wood glass cotton leather paint brush "
    "hammer nail saw rope ladder wheel engine car train plane boat ship bicycle ticket travel journey holiday party present ribbon candle "
    "lantern torch fire smoke ash ice steam cup plate fork knife spoon bottle basket bucket box bag coat hat shirt shoe sock glove scarf "
    "button pocket ring crown mask flag map key lock coin money market shop bank school office hotel museum library cinema number color "
    "circle square triangle line point shape size weight length speed light shadow sound voice silence dream idea question answer secret "
    "surprise smile laugh tear heart hand finger arm leg foot knee head face eye ear nose mouth tooth hair skin bone blood sleep health "
    "energy power signal screen keyboard computer network server model token prompt python memory battery camera phone radio robot"
)
