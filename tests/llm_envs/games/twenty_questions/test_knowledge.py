import csv
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import FrozenInstanceError
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from llm_envs.games.twenty_questions.knowledge import Thing, load_knowledge, regular_plural, table

TABLE = load_knowledge()

MUST_HAVE = """
dog cat elephant horse cow lion mouse rabbit penguin eagle chicken shark goldfish whale dolphin frog snake spider
bee ant butterfly apple banana carrot potato bread cheese pizza egg chocolate rice tree rose grass car bicycle
airplane boat train bus spoon knife cup plate table chair bed lamp television telephone computer book pencil
newspaper shoe shirt hat umbrella key clock mirror ball guitar piano house bridge river mountain sun moon rain snow
teacher doctor hammer scissors door window
"""

# What is true of a thing, and with a minus what is not.
SPOT_FACTS = """
dog: animal mammal canine pet fur tail four_legs -flies -feathers -wild -lays_eggs -man_made -person;
cat: feline pet predator claws climbs_trees -dangerous -lives_in_water -bigger_than_a_person;
elephant: has_trunk big_ears heavier_than_a_car grey eats_plants -eats_animals -predator -pet;
horse: hooves mane ridden farm_animal fast -horns -eats_animals;
cow: gives_milk horns farm_animal black_and_white -ridden -wild;
lion: dangerous predator mane found_in_africa -striped -domesticated; zebra: striped black white -dangerous;
giraffe: long_neck tall spotted -lays_eggs; mouse: rodent pest -dangerous -bigger_than_a_cat;
rabbit: hops big_ears lives_underground -predator; bat: mammal flies wings nocturnal -bird -feathers -lays_eggs;
kangaroo: hops pouch found_in_australia -found_in_africa;
penguin: bird swims wings feathers in_cold_places -flies -mammal; ostrich: bird fast long_neck -flies -in_cold_places;
eagle: bird_of_prey flies predator -farm_animal; owl: nocturnal flies -pet;
chicken: farm_animal lays_eggs edible -flies -lives_in_water;
shark: fish dangerous lives_in_water sharp_teeth -mammal -has_bones -has_legs;
goldfish: fish pet orange_coloured -dangerous -found_in_sea;
whale: mammal lives_in_water warm_blooded -fish -lays_eggs -breathes_under_water -has_legs;
dolphin: mammal swims fast -fish -scales; frog: amphibian green hops lays_eggs -fur -warm_blooded;
snake: reptile venomous scales -has_legs -warm_blooded; crocodile: dangerous four_legs -mammal;
turtle: shell found_in_sea -fast; spider: eight_legs arachnid -insect -wings -six_legs;
bee: insect six_legs stings flies striped -mammal -bigger_than_a_cat; ant: insect lives_in_groups -flies -dangerous;
butterfly: wings flies antennae -stings; octopus: eight_legs lives_in_water -has_bones -fish;
teacher: person worker studied two_legs found_in_school -animal -man_made -child;
doctor: medical helps_people found_in_hospital -plant; police_officer: wears_uniform about_law -works_with_food;
king: royalty rules male -female -worker; queen: female royalty -male; baby: child young -talks -worker -adult;
grandmother: family_member female -child; tree: plant alive has_leaves tall -animal -moves -man_made;
rose: flower spiky smells_nice -tall -vegetable; grass: green plant -spiky -trees;
cactus: spiky found_in_desert -has_leaves;
apple: fruit red grows_on_trees has_seeds -vegetable -alive -peeled -grows_underground;
banana: yellow peeled sweet long_and_thin -red -round; lemon: sour citrus_fruit yellow -sweet;
tomato: red vegetable fruit round -sweet; carrot: vegetable orange_coloured grows_underground -fruit -grows_on_trees;
potato: grows_underground peeled -sweet -fruit; bread: baked_food man_made made_from_flour -sweet -dairy;
cheese: dairy comes_from_animal -comes_from_plant -sweet; pizza: round served_hot eaten_with_hands -sweet -drink;
egg: comes_from_animal fragile breakfast -comes_from_plant -vegetable; chocolate: sweet brown caffeine -fruit -healthy;
rice: grain white cooked -sweet -dairy; ice_cream: cold sweet dairy -hot;
water: liquid drink transparent -sweet -alcoholic_drink; coffee: caffeine drink hot -cold -alcoholic_drink -edible;
wine: alcoholic_drink liquid -dairy;
car: vehicle four_wheels has_motor uses_fuel on_roads -flies -on_rails -alive -two_wheels;
bicycle: two_wheels has_wheels -has_motor -uses_fuel -four_wheels;
airplane: flies wings has_motor carries_many -alive -feathers -on_rails;
boat: watercraft near_water -has_wheels -flies -on_roads; train: on_rails carries_many -on_roads -flies;
bus: carries_many on_roads -on_rails; spoon: cutlery used_for_eating made_of_metal -sharp -used_for_cutting;
knife: sharp has_blade used_for_cutting dangerous -worn; cup: used_for_drinking has_handle fragile -used_for_cutting;
plate: flat round used_for_eating -holds_liquid; table: furniture four_legs made_of_wood -used_for_sitting -alive;
chair: furniture used_for_sitting four_legs -electric; bed: used_for_sleeping found_in_bedroom -found_in_kitchen;
lamp: gives_light electric -alive -used_for_cooking;
television: has_screen electric plugged_in -worn -held_in_one_hand;
telephone: used_for_communication has_numbers -has_wheels; computer: has_screen electric modern -soft -alive;
refrigerator: cold electric found_in_kitchen -hot;
book: made_of_paper has_pages used_for_reading -electric -used_for_writing;
pencil: used_for_writing made_of_wood stationery -electric -has_blade; newspaper: made_of_paper used_for_reading -hard;
shoe: worn_on_feet footwear comes_in_pairs -worn_on_head;
shirt: clothing made_of_cloth worn_on_upper_body -worn_on_feet -hard; hat: worn_on_head clothing -worn_on_feet;
umbrella: keeps_dry opens rainy -worn; key: made_of_metal in_pocket_or_bag -soft;
clock: tells_time used_for_measuring -worn; mirror: made_of_glass fragile -transparent;
ball: round toy thrown -rectangular; guitar: instrument has_strings made_of_wood -blown -wind_instrument;
piano: instrument heavier_than_a_person -held_in_one_hand -wind_instrument;
house: building people_live_there has_doors -moves; bridge: structure used_for_travel -building -people_live_there;
river: body_of_water wet -man_made -salty; mountain: landform tall climbed -man_made -alive;
sun: hot gives_light found_in_sky yellow -cold -found_in_house; moon: found_in_space nocturnal -hot;
rain: weather wet -hot -food; snow: cold white winter -hot -man_made;
hammer: tool used_for_building has_handle -used_for_cutting -soft; scissors: used_for_cutting sharp -electric;
door: opens has_handle rectangular -alive; window: transparent fragile made_of_glass -soft;
gun: weapon dangerous -used_for_eating; hand: body_part comes_in_pairs has_fingers -man_made
"""

IMPLIED = """
mammal: warm_blooded has_backbone teeth breathes; bird: feathers beak wings lays_eggs two_legs warm_blooded tail;
fish: lives_in_water breathes_under_water has_backbone fins; insect: six_legs lays_eggs; arachnid: eight_legs;
primate: two_legs fur has_hands; alive: grows; breathes: alive has_mouth; predator: eats_animals; stings: venomous;
sharp_teeth: teeth; fur: has_hair; breathes_under_water: lives_in_water; lives_in_water: near_water; pet: animal;
farm_animal: domesticated; domesticated: animal; child: young; talks: makes_noise; loud: makes_noise; food: edible;
seafood: edible animal; drink: drinkable liquid; dairy: contains_milk comes_from_animal; meat: contains_meat cooked;
citrus_fruit: grows_on_trees; has_stone: has_seeds; liquid: wet; gives_heat: hot; black_and_white: black white;
object: man_made; building: man_made place; electric: man_made; runs_on_battery: electric; plugged_in: electric;
has_motor: man_made machine; driven: vehicle has_wheels; on_rails: vehicle; two_wheels: has_wheels;
four_wheels: has_wheels; has_pages: made_of_paper; used_for_reading: has_writing; used_for_cutting: has_blade;
used_for_storage: holds_things; holds_liquid: holds_things; found_in_supermarket: sold_in_shops;
instrument: used_for_music makes_noise; weapon: dangerous could_be_weapon; worn_on_head: worn; worn_on_feet: worn;
worn_on_hands: worn; worn_on_legs: worn; worn_on_upper_body: worn; worn_on_neck: worn; two_legs: has_legs;
four_legs: has_legs; more_than_four_legs: has_legs; walks: has_legs; bigger_than_a_house: bigger_than_a_car;
bigger_than_a_car: bigger_than_a_person; bigger_than_a_person: bigger_than_a_cat;
heavier_than_a_car: heavier_than_a_person; heavier_than_a_person: heavy; heavy: heavier_than_a_cat;
smaller_than_a_coin: smaller_than_a_mouse; smaller_than_a_mouse: fits_in_a_shoe_box
"""

NEVER_BOTH = """
alive: man_made electric hot made_of_metal worn liquid has_wheels natural_thing; animal: plant person food;
mammal: lays_eggs bird fish reptile insect; person: plant wild pest pet; male: female; adult: child;
body_part: man_made alive; natural_thing: man_made modern; place: held_in_one_hand fits_in_a_shoe_box;
heavy: held_in_one_hand fits_in_a_shoe_box lighter_than_an_apple; indoors: outdoors; hot: cold;
soft: hard made_of_metal made_of_stone; fast: slow; round: rectangular; flies: slow; edible: weapon electric;
fruit: meat dairy; very_old: modern; cold: gives_heat; liquid: hard sharp; made_of_paper: made_of_metal;
expensive: used_up
"""

# Where the first meaning that WordNet gives (or the one that the data set took) is another than the thing's.
OTHER_MEANINGS = {
    "animal": {"queen", "steak"},
    "mammal": {"steak"},
    "fish": {"dolphin"},
    "insect": {"queen"},
    "vehicle": {"balloon"},
    "furniture": {"wheelchair"},
    "vegetable": {"french fries"},
    "drink": {"chocolate"},
}
WORDNET = {
    "animal": "animal",
    "mammal": "mammal",
    "bird": "bird",
    "fish": "fish",
    "insect": "insect",
    "reptile": "reptile",
    "fruit": "fruit",
    "vegetable": "vegetable",
    "drink": "drink",
    "vehicle": "vehicle",
    "wheeled vehicle": "has_wheels",
    "furniture": "furniture",
    "musical instrument": "instrument",
    "toy": "toy",
    "household appliance": "appliance",
    "weapon": "weapon",
    "tool": "tool",
    "flower": "flower",
    "body of water": "body_of_water",
    "book or document": "reading_matter",
}
# Where the UCI Zoo says otherwise: lobsters with six legs, a kiwi that is a bird, bears without tails, ...
ZOO = {
    "feathers": "feathers",
    "eggs": "lays_eggs",
    "milk": "mammal",
    "airborne": "flies",
    "backbone": "has_backbone",
    "tail": "tail",
}
ZOO_DIFFERS = {("bear", "tail"), ("lobster", "tail"), ("seal", "tail"), ("chicken", "airborne"), ("girl", "milk")}
ZOO_LEGS_DIFFER = {"crab", "lobster", "squirrel", "starfish"}


def facts(text: str) -> Iterator[tuple[str, str, bool]]:
    for sentence in text.split(";"):
        subject, _, rest = sentence.strip().partition(": ")
        for token in rest.split():
            yield subject.replace("_", " ") if text is SPOT_FACTS else subject, token.removeprefix("-"), token[0] != "-"


def thing(name: str) -> Thing:
    found = TABLE.find(name)
    assert found is not None, name
    return found


def names_with(attribute: str) -> set[str]:
    assert attribute in TABLE.attributes, attribute
    return {thing.name for thing in TABLE.things if attribute in thing.attributes}


def test_size_of_the_table():
    assert len(TABLE.things) >= 320
    assert len(TABLE.attributes) >= 90
    assert TABLE.matrix.shape == (len(TABLE.things), len(TABLE.attributes))
    assert TABLE.matrix.dtype == np.bool_
    assert {thing(name).name for name in MUST_HAVE.split()} == set(MUST_HAVE.split())


def test_the_matrix_says_what_the_things_say():
    for row, one in zip(TABLE.matrix, TABLE.things, strict=True):
        assert {key for key, true in zip(TABLE.attributes, row, strict=True) if true} == one.attributes
        assert set(one.kinds) <= one.attributes


def test_it_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        TABLE.matrix[0, 0] = True
    with pytest.raises(FrozenInstanceError):
        TABLE.things[0].legs = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        TABLE.attributes["x"] = "Is it x?"  # type: ignore[index]
    assert load_knowledge() is TABLE


def test_loading_is_quick():
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        load_knowledge.__wrapped__()
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.03


def test_every_pair_differs_in_two_attributes_at_least():
    true = TABLE.matrix.astype(np.int32)
    count = true.sum(axis=1)
    distance = count[:, None] + count[None, :] - 2 * true @ true.T
    np.fill_diagonal(distance, 99)
    assert distance.min() >= 2


def test_every_attribute_divides():
    counts = dict(zip(TABLE.attributes, TABLE.matrix.sum(axis=0).tolist(), strict=True))
    assert not {key: count for key, count in counts.items() if not 3 <= count < len(TABLE.things)}


def test_questions():
    for key, question in TABLE.attributes.items():
        assert question.endswith("?"), key
        assert question[0].isupper(), key
        assert question.isascii(), key
    assert len(set(TABLE.attributes.values())) == len(TABLE.attributes)
    assert TABLE.attributes["alive"] == "Is it alive?"


def test_spot_facts():
    checked = list(facts(SPOT_FACTS))
    assert len(checked) >= 150
    assert {attribute for _, attribute, _ in checked} <= set(TABLE.attributes)
    assert [fact for fact in checked if (fact[1] in thing(fact[0]).attributes) != fact[2]] == []


def test_what_follows():
    for premise, conclusion, _ in facts(IMPLIED):
        assert names_with(premise) <= names_with(conclusion), (premise, conclusion)


def test_contradictions():
    for one, other, _ in facts(NEVER_BOTH):
        assert not names_with(one) & names_with(other), (one, other)


def test_legs():
    for one in TABLE.things:
        assert ("has_legs" in one.attributes) == (one.legs > 0)
    legs = {"dog": 4, "hen": 2, "bee": 6, "spider": 8, "crab": 10, "snake": 0, "teacher": 2, "table": 4, "car": 0}
    assert {name: thing(name).legs for name in legs} == legs


@pytest.mark.parametrize(
    "chain",
    [
        "ant bee mouse rat cat dog horse elephant whale",
        "seed coin apple cabbage chair piano car bus house skyscraper mountain earth sun",
        "pill key cup bucket sofa truck airplane ship",
        "mosquito frog rabbit sheep lion hippopotamus",
        "needle pencil book television door bridge",
    ],
)
def test_sizes_and_weights(chain):
    things = [thing(name) for name in chain.split()]
    for smaller, bigger in pairwise(things):
        assert smaller.bulk_m < bigger.bulk_m, (smaller.name, bigger.name)
        assert smaller.weight_kg < bigger.weight_kg, (smaller.name, bigger.name)


def test_what_is_long_and_thin_is_not_big():
    assert thing("snake").size_m > thing("cat").size_m
    assert thing("snake").bulk_m < thing("cat").bulk_m
    assert thing("cat").bulk_m == pytest.approx(thing("cat").size_m)
    assert names_with("long_and_thin") >= {"snake", "rope", "pencil", "river", "banana"}


def test_numbers_are_sane():
    for one in TABLE.things:
        assert 0 < one.bulk_m <= one.size_m * 1.0001
        assert math.isfinite(one.size_m)
        weightless = one.name in {"wind", "lightning", "rainbow", "fire"}
        assert (one.weight_kg == 0) == weightless, one.name
        if "person" in one.kinds:
            assert one.bulk_m <= thing("teacher").bulk_m
        if not {"natural_thing", "place", "structure"} & one.attributes and not weightless:
            # Nothing is denser than a solid cube of gold.
            assert one.weight_kg < 20_000 * one.size_m**3, one.name


def test_names():
    assert thing("aeroplane") is thing("PLANE") is thing("airplanes") is thing("airplane")
    assert thing("tv").name == "television"
    assert thing("bikes").name == "bicycle"
    assert thing("mice").name == "mouse"
    assert thing("glasses").name != thing("glass").name
    assert TABLE.find("unicorn") is None
    phrases = {"owls": "an owl", "rice": "rice", "sun": "the sun", "pants": "trousers", "mice": "a mouse"}
    assert {name: thing(name).phrase for name in phrases} == phrases
    for row, one in enumerate(TABLE.things):
        assert one.names[0] == one.name
        assert all(name == name.lower().strip() and name.isascii() for name in one.names)
        assert all(TABLE.row_of[name] == row for name in one.names)
    assert len(TABLE.row_of) == sum(len(one.names) for one in TABLE.things)


@pytest.mark.parametrize(
    ("noun", "plural"),
    [("cat", "cats"), ("box", "boxes"), ("bus", "buses"), ("fly", "flies"), ("toy", "toys"), ("peach", "peaches")],
)
def test_regular_plurals(noun, plural):
    assert regular_plural(noun) == plural


def break_file(monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str) -> None:
    text = Path(table.__file__).with_name(file).read_text(encoding="utf-8")
    assert text.count(old) == 1
    lines = text.replace(old, new).splitlines()
    real = table._lines
    keep = [line for line in lines if line and not line.startswith("#")]
    monkeypatch.setattr(table, "_lines", lambda name: iter(keep) if name == file else real(name))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("things.tsv", "\nmoth\tinsect", "\nmoth\tinsekt", r"'moth' is of unknown kinds \['insekt'\]"),
        ("things.tsv", "\nmoth\t", "\nwasp\t", "'wasp' is there twice"),
        ("things.tsv", "housefly", "wasp", "'fly' and 'wasp' share the name 'wasp'"),
        ("nature.txt", "    animal person plant\n", "    animal person plants\n", "alive: 'plants' is no thing"),
        ("nature.txt", "    animal person plant\n", "    animal person dog plant\n", "alive: 'dog' changes nothing"),
        ("looks.txt", "\nshiny: ", "\nalive: ", "'alive' is there twice"),
        ("kinds.tsv", "\nrodent\t", "\nfeline\t", "kind 'feline' is there twice"),
    ],
)
def test_slips_in_the_files_are_found(monkeypatch, file, old, new, message):
    break_file(monkeypatch, file, old, new)
    with pytest.raises(ValueError, match=message):
        load_knowledge.__wrapped__()


def shared_words(file: str) -> list[str]:
    path = Path(os.environ.get("LLM_ENVS_TEST_DATA", "/nonexistent"), "words", "kb", file)
    if not path.exists():
        pytest.skip(f"LLM_ENVS_TEST_DATA has no words/kb/{file}")
    return path.read_text(encoding="utf-8").splitlines()


def test_wordnet_agrees():
    lines = shared_words("wordnet_nouns_core.jsonl") + shared_words("wordnet_nouns_allenai.jsonl")
    rows = {row["word"]: row["is"] for row in map(json.loads, reversed(lines))}
    known = [one for one in TABLE.things if one.name in rows]
    assert len(known) > 350
    for category, attribute in WORDNET.items():
        missing = {one.name for one in known if rows[one.name][category] and attribute not in one.attributes}
        assert missing <= OTHER_MEANINGS.get(category, set()), category


def test_the_zoo_agrees():
    animals = 0
    for row in csv.DictReader(shared_words("uci_zoo.csv")):
        one = TABLE.find(row["animal_name"])
        if one is None or one.name == "kiwi":
            continue
        animals += 1
        differs = {(one.name, key) for key, mine in ZOO.items() if (row[key] == "1") != (mine in one.attributes)}
        assert differs <= ZOO_DIFFERS
        assert one.legs == int(row["legs"]) or one.name in ZOO_LEGS_DIFFER
    assert animals > 40
