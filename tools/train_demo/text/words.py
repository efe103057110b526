"""Lists of words and facts for the training text."""

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
    "MORE_WORDS",
    "NAMES",
    "OPPOSITES",
    "PLACES",
    "PLAIN_WORDS",
    "ROOMS",
]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = _words(
    "January February March April May June July August September October November December"
)
COLOURS = ("red", "blue", "green", "yellow", "white", "black", "brown", "orange", "pink", "grey")

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
    "Portugal": "Lisbon", "Austria": "Vienna", "Poland": "Warsaw", "Norway": "Oslo",
    "Sweden": "Stockholm", "Denmark": "Copenhagen", "Finland": "Helsinki", "Greece": "Athens",
    "Hungary": "Budapest", "Ireland": "Dublin", "Japan": "Tokyo", "China": "Beijing",
    "India": "New Delhi", "Egypt": "Cairo", "Kenya": "Nairobi", "Peru": "Lima", "Chile": "Santiago",
    "Cuba": "Havana", "Canada": "Ottawa", "Russia": "Moscow", "Turkey": "Ankara",
    "Belgium": "Brussels", "Morocco": "Rabat", "Nepal": "Kathmandu", "Iceland": "Reykjavik",
    "Argentina": "Buenos Aires", "Thailand": "Bangkok", "England": "London",
    "Scotland": "Edinburgh", "Ukraine": "Kyiv", "Croatia": "Zagreb", "Australia": "Canberra",
}  # fmt: skip

COLOURED = {
    "a banana": "yellow", "snow": "white", "grass": "green", "a tomato": "red", "the sky": "blue",
    "coal": "black", "milk": "white", "blood": "red", "a lemon": "yellow", "a carrot": "orange",
    "chocolate": "brown", "the sun": "yellow", "the sea": "blue", "a leaf": "green",
    "an elephant": "grey", "a frog": "green", "a swan": "white", "a strawberry": "red",
    "a pig": "pink", "a raven": "black", "a cucumber": "green", "salt": "white",
    "the night": "black", "a fire engine": "red",
}  # fmt: skip

OPPOSITES = {
    "hot": "cold", "big": "small", "up": "down", "left": "right", "day": "night", "fast": "slow",
    "old": "young", "happy": "sad", "open": "closed", "full": "empty", "light": "dark",
    "wet": "dry", "long": "short", "high": "low", "rich": "poor", "hard": "soft", "early": "late",
    "good": "bad", "loud": "quiet", "strong": "weak", "true": "false", "clean": "dirty",
    "thick": "thin", "near": "far",
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

NAMES = _words(
    "Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Karla Leo Maria Noah Olga Paul Rosa "
    "Simon Tina Victor Wanda Yara Adam Bella Carlos Diana Erik Fiona Georg Hana Igor Julia Kevin "
    "Laura Max Nora Otto Petra Robert Sofia Tom Uma Vera Walter Alice Bob Chris Dora Elias Frank "
    "Gina Henry Iris Jack Kate Lucas Mila Nick Oliver Peggy Ralf Sam Theo Ursula Viola Will Zoe "
    "Amir Bruno Chloe Dario Esther Farid Gloria Hector Irene Jamal Kenji Lina Marco Nadia Omar "
    "Paula Rita Stefan Tanya Robin Lena Pedro Ivan Nina Sara Marta Oskar Momo Luigi"
)

ANIMALS = _words(
    "dog cat horse cow pig sheep goat duck hen fox wolf bear lion tiger mouse rat rabbit frog snake"
    " bird owl eagle fish whale shark bee ant spider camel monkey elephant giraffe zebra deer"
    " donkey squirrel hedgehog turtle penguin seal swan raven parrot hamster"
)
FRUITS = _words(
    "apples pears plums bananas oranges lemons cherries grapes peaches melons figs mangos kiwis"
    " berries nuts dates limes"
)
ITEMS = _words(
    "bicycle lamp kettle chair table book pen cup plate knife hat coat shirt shoe bag box clock"
    " phone radio guitar piano drum ball kite mirror basket bottle blanket pillow candle ladder"
    " hammer spoon fork carpet curtain bucket brush comb ring watch camera tent rope"
)
PLACES = _words(
    "museum shop library bakery station school bank park market cinema theatre hotel zoo pool post"
    " castle cafe gym"
)
ROOMS = _words(
    "kitchen hall bedroom bathroom garage cellar attic office garden balcony nursery study"
)
ARTISTS = _words(
    "Bach Mozart Beethoven Chopin Vivaldi Handel Haydn Schubert Verdi Brahms Liszt Mahler Grieg"
    " Dvorak Ravel Satie"
)
ADJECTIVES = _words(
    "brave little old clever kind shy happy hungry lazy quick quiet gentle proud curious tired"
    " sleepy funny lonely"
)

PLAIN_WORDS = _words(
    "apple pear grape plum cherry lemon orange banana melon peach berry bread butter cheese milk"
    " honey sugar salt pepper coffee tea water juice soup cake candy rice corn bean potato tomato"
    " onion carrot salad meat egg garden flower rose tree leaf grass forest river lake ocean island"
    " beach mountain valley desert field farm village city street road bridge tower castle house"
    " home door window roof wall floor stairs room kitchen table chair lamp bed mirror clock"
    " picture book paper pencil letter word story poem song music dance guitar piano drum violin"
    " flute sun moon star planet rocket cloud rain snow wind storm thunder summer winter spring"
    " autumn morning evening night day week month year minute second hour time king queen prince"
    " knight dragon giant wizard pirate sailor doctor teacher farmer baker driver pilot painter"
    " singer friend mother father sister brother child baby uncle cousin dog cat horse tiger lion"
    " monkey camel rabbit turtle spider eagle parrot penguin dolphin whale shark gold silver copper"
    " iron stone wood glass cotton leather paint brush hammer nail saw rope ladder wheel engine car"
    " train plane boat ship bicycle ticket travel journey holiday party present ribbon candle"
    " lantern torch fire smoke ash ice steam cup plate fork knife spoon bottle basket bucket box"
    " bag coat hat shirt shoe sock glove scarf button pocket ring crown mask flag map key lock coin"
    " money market shop bank school office hotel museum library cinema number color circle square"
    " triangle line point shape size weight length speed light shadow sound voice silence dream"
    " idea question answer secret surprise smile laugh tear heart hand finger arm leg foot knee"
    " head face eye ear nose mouth tooth hair skin bone blood sleep health energy power signal"
    " screen keyboard computer network server model token prompt python memory battery camera phone"
    " radio robot"
)

MORE_WORDS = _words(
    "able above across active actor admit adult advice afraid again agree ahead alarm album alert"
    " alive allow almost alone along alphabet amount anchor angel angle angry ankle answer anybody"
    " apron arch area arena army arrow artist aspect assist atom attack aunt author avenue avoid"
    " awake award aware awful bacon badge balance balcony bamboo banner barrel barrier basic basin"
    " bath battle beach beam beard beat become before begin behave behind believe bell belong belt"
    " bench beside better between beyond bible birth bitter blade blame blank blast blend bless"
    " blind block bloom board boil bold bolt bonus border bottom bounce brain branch brave break"
    " breath breeze brick bride brief bright bring broken bronze broom brown bubble budget build"
    " bullet bunch bundle burn burst bush busy cabin cable cactus calm canal cancel canvas capital"
    " captain card care cargo carry carve case cash catch cattle cause cave ceiling centre chain"
    " chalk chance change channel chapter charge charm chase cheap check cheek cheer chef chest"
    " chicken chief chin choice choose church circus citizen claim class clay clever cliff climb"
    " cloth clown club coach coast code coil collar column combine comet comfort common compass"
    " concert cook cool copy coral corner correct costume couple courage course court cover crab"
    " crack craft crane crash crayon cream create credit creek crew crisp cross crowd cruel crust"
    " crystal culture cure curious current curve custom cycle daisy damage damp danger daring dark"
    " daughter dawn deal dear debate decide deep defend degree delay deliver dense depend deposit"
    " depth describe design desk detail device diamond diary different dig digit dinner dirt"
    " discover dish distance dive divide double doubt dozen draft draw dress drift drink drop dust"
    " duty eager early earn earth east easy echo edge educate effect effort eight either elbow"
    " elder elect element eleven embrace emotion empty enemy enjoy enough enter entire equal error"
    " escape evening event every exact example excite excuse exist expect expert explain explore"
    " express extra fabric factor fair faith fall false fame family famous fancy fashion fault"
    " favour feather fellow fence fever fiction fifteen fifty fight figure file fill film final"
    " find fine finish first flame flash flavour fleet flesh flight float flood flour flow fluid"
    " focus fog fold follow food force foreign forget forgive form fortune forward found frame free"
    " freeze frequent fresh front frozen fruit fuel function furniture future gadget galaxy gallery"
    " game gap gas gate gather gentle ghost gift ginger give glad glance globe glory glue goal"
    " grace grade grain grand grape graph gravity great greet grey grin ground group grow guard"
    " guess guest guide guilty habit half hall handle happen harbour hard harvest haste heal heap"
    " hear heat heaven heavy height hello help herb hero hidden hill history hobby hold hole hollow"
    " honest honour hope horizon human humble humour hundred hungry hunt hurry husband idle ignore"
    " image immune impact improve inch income increase indeed index infant inform inner insect"
    " inside inspire instant invent invite island item jacket jam jaw jealous jelly jewel join joke"
    " judge jump jungle junior just justice keen keep kernel kettle kick kidney kind kingdom kiss"
    " kitten label labour lace lamb land language large laser last launch laundry law layer lazy"
    " lead learn lecture legend lend lesson level lever liberty limit linen liquid list listen"
    " little live load loan lobster local locate log logic loop loose loud loyal luck lumber lunch"
    " machine magic magnet maid mail main major make mammal manage manner maple marble march margin"
    " mark marry mass master match matter mature maximum maze measure medal medium meet melody melt"
    " member mention menu merry mess metal method middle might mild mill mind mine minor mistake"
    " mix mobile modern moment monster mood moral mosquito motion motor mouse move movie muffin"
    " mule multiply muscle mushroom mystery narrow nation native nature navy near neat neck needle"
    " neighbour nephew nerve nest neutral never news nice noble noise normal north note nothing"
    " notice novel nuclear nurse oak obey object observe obtain occur october odd offer officer"
    " often olive open opera opinion orbit orchard order organ origin orphan other outer output"
    " oven over owner oxygen oyster pace pack page pain pair palace pale palm panda panel panic"
    " parade parcel parent part pass past paste patch path patient pattern pause peace peanut pearl"
    " people perfect period permit person phrase physics pickle piece pigeon pile pilgrim pine pipe"
    " pitch pity pizza plain plan plastic play please plenty plot plug poet poison polar police"
    " polite pond pony poor popular port position possible poverty powder practice praise pray"
    " prefer prepare press pretty price pride print prison private prize problem process product"
    " profit program promise proof proper protect proud public pudding pull pulse pump pumpkin"
    " pupil puppet puppy purple purpose purse push puzzle quality quarter queue quite quiz quote"
    " race rack radar raft rail raise rally range rapid rare rate razor reach react ready real"
    " reason rebel receive recipe record recover reduce refuse region regret regular relax release"
    " rely remain remember remote remove renew rent repair repeat reply report rescue respect rest"
    " result return reveal reward rhythm rice riddle ride rifle right rigid rise risk rival roast"
    " rocky role root rough round route royal rubber rude rule rumour rural sack sacred saddle safe"
    " sail saint sake sample sand satin sauce sausage save scale scan scare scatter scene science"
    " scissors score scout scrap scratch search season seat second secret section seed seek select"
    " sell senior sense separate serious serve settle seven several shade shake shallow shame share"
    " sharp shelf shell shelter shift shine shiver shock short shoulder shout shovel shower shrimp"
    " shut sight sign silk silly simple since single siren sister size skate sketch skill skirt"
    " slave slice slide slim slip slope slow small smart smell smooth snack snail sneeze social"
    " soda sofa soil soldier solid solve some south space spare spark special spell spend spice"
    " spin spirit splash split spoil sponge sport spot spray spread square squeeze stable stadium"
    " staff stage stamp stand stare start state statue stay steak steel stem step stick still sting"
    " stomach storage strange strap straw stream strict string strong student studio study stuff"
    " style subject success sudden suffer suggest suit supper supply support sure surface swallow"
    " swamp sweater sweet swift swim sword symbol system tail tailor talent talk tall tank tape"
    " target task taste taxi teach team tell temple tennis term test text thank theory thick thief"
    " thing think thirty thorn thread throat throne throw thumb tide tidy tight tile timber tiny"
    " tissue title toast toe together tomorrow tongue tool topic total touch tough tourist toward"
    " town toy trace track trade traffic trail trap tray treasure treat trend trial tribe trick"
    " trip truck true trumpet trunk trust truth tube tulip tunnel turkey turn twelve twenty twice"
    " twist type ugly umbrella under uniform union unit until upper upset urban useful usual"
    " vacation vague vain valid value van vanilla vapour vast vault vegetable vehicle velvet verb"
    " very vessel victory video view vine virus visit vital vivid volcano volume vote vowel voyage"
    " wage wait wake walk wander want warm warn wash waste wave weak wealth weapon wear weave"
    " wedding weekend weird well west wet wheat whisper whistle white whole wide wife wild will"
    " wing winner wire wise wish witness wolf wonder wool work world worm worry worth wound wrap"
    " wrist write wrong yard yawn yellow yesterday yield young youth zebra zero zigzag zone"
)
"""Common words for the exercises."""
