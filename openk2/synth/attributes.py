"""What can be asked of a country: Factbook headings, how people call them, how quantities compare and combine."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Attribute:
    """One line of a country: `heading` (a regular expression), `label` (used in queries and answers), `phrases` (nouns
    people use), `frames` (whole questions with {c}), `most`/`least` (superlatives for comparisons, numbers only)."""

    heading: str
    label: str
    phrases: tuple[str, ...]
    frames: tuple[str, ...] = ()
    most: tuple[str, ...] = ()
    least: tuple[str, ...] = ()
    unit: str = ""

    @property
    def numeric(self) -> bool:
        return bool(self.most)


@dataclass(frozen=True)
class Derived:
    """A quotient of two attributes, e.g. people per square kilometre; `top` and `bottom` are their labels."""

    label: str
    top: str
    bottom: str
    phrases: tuple[str, ...]
    frames: tuple[str, ...] = ()
    most: tuple[str, ...] = ()
    least: tuple[str, ...] = ()
    digits: int = 1


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("|") if part.strip())


def A(
    heading: str, label: str, phrases: str, frames: str = "", most: str = "", least: str = "", unit: str = ""
) -> Attribute:
    return Attribute(heading, label, _split(phrases), _split(frames), _split(most), _split(least), unit)


def D(label: str, top: str, bottom: str, phrases: str, frames: str, most: str, least: str, digits: int = 1) -> Derived:
    wordings = (_split(phrases), _split(frames), _split(most), _split(least))
    return Derived(label, top, bottom, *wordings, digits)


ATTRIBUTES: tuple[Attribute, ...] = (
    A(r"Population - total", "total population",
      "population|total population|number of people|number of inhabitants|population size|headcount|"
      "population figure|number of residents",
      "How many people live in {c}?|How many inhabitants does {c} have?|How many people are there in {c}?|"
      "How populous is {c}?|How many residents does {c} have?|What number of people live in {c}?",
      "largest population|most people|biggest population|highest population|most inhabitants|"
      "greatest number of people", "smallest population|fewest people|lowest population|fewest inhabitants",
      " people"),
    A(r"Area - total", "total area",
      "area|total area|surface area|size|land size|territory size|size in square kilometres",
      "How big is {c}?|How large is {c}?|How many square kilometres does {c} cover?|"
      "How many square kilometers is {c}?|How much area does {c} cover?",
      "largest area|biggest area|largest territory|most territory|greatest area",
      "smallest area|least territory|smallest territory", " sq km"),
    A(r"Area - land", "land area", "land area|area of land|land surface|dry land area",
      "How much land does {c} have?|How many square kilometres of land does {c} have?",
      "largest land area|most land", "smallest land area|least land", " sq km"),
    A(r"Area - water", "water area", "water area|area of water|water surface|area covered by water",
      "How much of {c} is water, in square kilometres?|How much water area does {c} have?",
      "largest water area|most water", "smallest water area|least water", " sq km"),
    A(r"Land boundaries - total", "total land boundaries",
      "total land boundaries|land border length|total length of land borders|land boundary|"
      "length of its land borders",
      "How long are the land borders of {c}?|How many kilometres of land border does {c} have?",
      "longest land borders|longest land boundary", "shortest land borders|shortest land boundary", " km"),
    A(r"Coastline", "coastline", "coastline|length of the coastline|coast length|shoreline|length of the coast",
      "How long is the coast of {c}?|How many kilometres of coast does {c} have?|How long is the coastline of {c}?",
      "longest coastline|longest coast|most coast", "shortest coastline|shortest coast", " km"),
    A(r"Elevation - mean elevation", "mean elevation",
      "mean elevation|average elevation|average height above sea level|average altitude",
      "How high is {c} on average?|How high above sea level is {c} on average?",
      "highest mean elevation|highest average elevation", "lowest mean elevation|lowest average altitude", " m"),
    A(r"Land use - forest", "forest land use",
      "forest share|share of forest|forest cover|percentage of forest|share of land under forest",
      "How much of {c} is forest?|How much of {c} is covered by forest?|What part of {c} is forest?",
      "highest share of forest|most forest cover", "lowest share of forest|least forest cover", "%"),
    A(r"Land use - agricultural land", "agricultural land use",
      "agricultural land share|share of farmland|percentage of agricultural land|share of agricultural land",
      "How much of {c} is farmland?|What part of {c} is agricultural land?",
      "highest share of farmland|most agricultural land", "lowest share of farmland|least agricultural land", "%"),
    A(r"Irrigated land", "irrigated land", "irrigated land|area of irrigated land|irrigated area",
      "How much land is irrigated in {c}?",
      "most irrigated land|largest irrigated area", "least irrigated land|smallest irrigated area", " sq km"),
    A(r"Population growth rate", "population growth rate",
      "population growth rate|population growth|rate of population growth",
      "How fast does the population of {c} grow?|How fast is the population of {c} growing?",
      "highest population growth|fastest growing population", "lowest population growth|slowest growing population",
      "%"),
    A(r"Birth rate", "birth rate", "birth rate|rate of births|number of births per 1,000 people",
      "How many births per 1,000 people does {c} have?",
      "highest birth rate", "lowest birth rate", ""),
    A(r"Death rate", "death rate", "death rate|mortality rate|rate of deaths|number of deaths per 1,000 people",
      "How many deaths per 1,000 people does {c} have?",
      "highest death rate|highest mortality", "lowest death rate|lowest mortality", ""),
    A(r"Net migration rate", "net migration rate", "net migration rate|net migration|migration rate",
      "How much net migration does {c} have?",
      "highest net migration", "lowest net migration", ""),
    A(r"Median age - total", "total median age", "median age|average age|typical age|median age of the people",
      "How old is the average person in {c}?|How old are people in {c}?|How old is a typical person in {c}?",
      "highest median age|oldest population|oldest people", "lowest median age|youngest population|youngest people",
      " years"),
    A(r"Life expectancy at birth - total population", "life expectancy at birth",
      "life expectancy|life expectancy at birth|expected lifespan|lifespan|length of life",
      "How long do people live in {c}?|How long can a person in {c} expect to live?|"
      "How many years do people live in {c}?",
      "highest life expectancy|longest life expectancy|longest living people",
      "lowest life expectancy|shortest life expectancy", " years"),
    A(r"Infant mortality rate - total", "total infant mortality rate",
      "infant mortality rate|infant mortality|rate of infant deaths|child death rate",
      "How many infants die per 1,000 births in {c}?",
      "highest infant mortality", "lowest infant mortality", ""),
    A(r"Total fertility rate", "total fertility rate",
      "fertility rate|total fertility rate|fertility|number of children per woman",
      "How many children does a woman have in {c}?|How many children are born per woman in {c}?",
      "highest fertility rate|most children per woman", "lowest fertility rate|fewest children per woman", ""),
    A(r"Urbanization - urban population", "urban population",
      "urban population|share of people in cities|urban share|degree of urbanization|urban population share",
      "How many people in {c} live in cities?|What share of the people of {c} live in cities?",
      "highest urban population share|most urban population", "lowest urban population share|least urban population",
      "%"),
    A(r"Physician density", "physician density",
      "physician density|number of doctors per 1,000 people|density of doctors|doctor density",
      "How many doctors are there in {c}?|How many doctors per 1,000 people does {c} have?",
      "highest physician density|most doctors per person", "lowest physician density|fewest doctors per person", ""),
    A(r"Hospital bed density", "hospital bed density",
      "hospital bed density|number of hospital beds per 1,000 people|density of hospital beds",
      "How many hospital beds are there in {c}?",
      "highest hospital bed density|most hospital beds per person",
      "lowest hospital bed density|fewest hospital beds per person", ""),
    A(r"Literacy - total population", "total literacy", "literacy|literacy rate|share of people who can read",
      "How many people can read in {c}?|How many people in {c} can read and write?",
      "highest literacy|highest literacy rate", "lowest literacy|lowest literacy rate", "%"),
    A(r"GDP \(official exchange rate\)", "GDP official exchange rate",
      "GDP|GDP at the official exchange rate|gross domestic product|economic output",
      "How big is the economy of {c}?|How large is the economy of {c}?",
      "largest GDP|biggest economy|largest economy|highest GDP", "smallest GDP|smallest economy|lowest GDP", ""),
    A(r"Real GDP per capita \d{4}", "real GDP per capita",
      "real GDP per capita|GDP per capita|GDP per head|income per person|output per person",
      "How rich is the average person in {c}?|How rich are the people of {c}?",
      "highest GDP per capita|richest people|highest income per person",
      "lowest GDP per capita|poorest people|lowest income per person", ""),
    A(r"Real GDP growth rate \d{4}", "real GDP growth rate",
      "GDP growth rate|economic growth rate|real GDP growth|economic growth|growth of the economy",
      "How fast does the economy of {c} grow?|How fast is the economy of {c} growing?",
      "fastest growing economy|highest economic growth", "slowest growing economy|lowest economic growth", "%"),
    A(r"Inflation rate \(consumer prices\) \d{4}", "inflation rate",
      "inflation rate|inflation|consumer price inflation|rate of inflation",
      "How high is inflation in {c}?|How fast do prices rise in {c}?",
      "highest inflation|highest inflation rate", "lowest inflation|lowest inflation rate", "%"),
    A(r"Unemployment rate \d{4}", "unemployment rate",
      "unemployment rate|unemployment|jobless rate|share of people without work",
      "How high is unemployment in {c}?|How many people are out of work in {c}?",
      "highest unemployment|highest unemployment rate", "lowest unemployment|lowest unemployment rate", "%"),
    A(r"Public debt \d{4}", "public debt", "public debt|government debt|state debt",
      "How much debt does the government of {c} have?",
      "highest public debt|most public debt", "lowest public debt|least public debt", "%"),
    A(r"Exports \d{4}", "exports", "exports|value of exports|export value|total exports",
      "How much does {c} export?|How much does {c} sell abroad?",
      "largest exports|most exports|highest exports", "smallest exports|fewest exports", ""),
    A(r"Imports \d{4}", "imports", "imports|value of imports|import value|total imports",
      "How much does {c} import?|How much does {c} buy abroad?",
      "largest imports|most imports|highest imports", "smallest imports|fewest imports", ""),
    A(r"Budget - revenues", "budget revenues", "budget revenues|government revenue|state income|government revenues",
      "How much money does the government of {c} take in?",
      "highest budget revenues|largest government revenue", "lowest budget revenues|smallest government revenue", ""),
    A(r"Budget - expenditures", "budget expenditures",
      "budget expenditures|government spending|state spending|public spending",
      "How much money does the government of {c} spend?",
      "highest government spending|largest budget expenditures",
      "lowest government spending|smallest budget expenditures", ""),
    A(r"Labor force", "labor force", "labor force|labour force|workforce|number of workers",
      "How many people work in {c}?|How many workers does {c} have?",
      "largest labor force|largest workforce|most workers", "smallest labor force|smallest workforce|fewest workers",
      ""),
    A(r"Airports", "airports", "number of airports|airports|airport count",
      "How many airports does {c} have?|How many airports are there in {c}?",
      "most airports|highest number of airports", "fewest airports|lowest number of airports", " airports"),
    A(r"Heliports", "heliports", "number of heliports|heliports",
      "How many heliports does {c} have?|How many heliports are there in {c}?",
      "most heliports", "fewest heliports", " heliports"),
    A(r"Railways - total", "total railways", "railway length|total railways|length of railways|rail network",
      "How long are the railways of {c}?|How many kilometres of railway does {c} have?",
      "longest railways|longest rail network", "shortest railways|shortest rail network", " km"),
    A(r"Merchant marine - total", "total merchant marine",
      "merchant marine|number of merchant ships|size of the merchant fleet",
      "How many merchant ships does {c} have?",
      "largest merchant marine|most merchant ships", "smallest merchant marine|fewest merchant ships", " ships"),
    A(r"Internet users - percent of population", "internet users percent",
      "percentage of internet users|share of internet users|internet use|internet penetration",
      "How many people in {c} use the internet?|What share of the people of {c} use the internet?",
      "highest share of internet users|most internet use", "lowest share of internet users|least internet use", "%"),
    A(r"Telephones - mobile cellular - total subscriptions", "total mobile cellular subscriptions",
      "number of mobile phone subscriptions|mobile cellular subscriptions|number of mobile phones|"
      "cell phone subscriptions",
      "How many mobile phones are there in {c}?|How many mobile phone subscriptions does {c} have?",
      "most mobile phones|most mobile phone subscriptions", "fewest mobile phones|fewest mobile phone subscriptions",
      ""),
    A(r"Electricity - consumption", "electricity consumption",
      "electricity consumption|electricity use|power consumption|use of electricity",
      "How much electricity does {c} use?|How much electricity does {c} consume?",
      "highest electricity consumption|largest electricity use",
      "lowest electricity consumption|smallest electricity use", ""),
    A(r"Electricity - installed generating capacity", "electricity installed generating capacity",
      "installed generating capacity|electricity generating capacity|power generating capacity",
      "How much generating capacity does {c} have?",
      "largest generating capacity|highest generating capacity",
      "smallest generating capacity|lowest generating capacity", ""),
    A(r"Carbon dioxide emissions - total emissions", "total carbon dioxide emissions",
      "carbon dioxide emissions|CO2 emissions|total carbon dioxide emissions|carbon emissions",
      "How much carbon dioxide does {c} emit?|How much CO2 does {c} emit?",
      "highest carbon dioxide emissions|most CO2 emissions|largest carbon emissions",
      "lowest carbon dioxide emissions|fewest CO2 emissions|smallest carbon emissions", ""),
    A(r"Military expenditures - Military Expenditures \d{4}", "military expenditures",
      "military expenditures|military spending|defence spending|defense spending",
      "How much does {c} spend on its military?|How much does {c} spend on defence?",
      "highest military spending|largest military expenditures",
      "lowest military spending|smallest military expenditures", "%"),
    A(r"Population - male", "male population", "male population|number of men|number of males",
      "How many men live in {c}?|How many males does {c} have?",
      "largest male population|most men", "smallest male population|fewest men", " people"),
    A(r"Population - female", "female population", "female population|number of women|number of females",
      "How many women live in {c}?|How many females does {c} have?",
      "largest female population|most women", "smallest female population|fewest women", " people"),
    # text
    A(r"Capital - name", "capital name", "capital|capital city|name of the capital|seat of government",
      "What city is the capital of {c}?|Which city is the capital of {c}?|What is {c}'s capital called?"),
    A(r"Exchange rates - Currency", "exchange rates currency",
      "currency|money|name of the currency|national currency",
      "What money do people use in {c}?|Which currency does {c} use?|What currency is used in {c}?"),
    A(r"Government type", "government type",
      "government type|type of government|form of government|kind of government|system of government",
      "How is {c} governed?|What kind of government does {c} have?"),
    A(r"Executive branch - chief of state", "chief of state", "chief of state|head of state|president or monarch",
      "Who is the head of state of {c}?|Who is the president of {c}?|Who is the chief of state in {c}?"),
    A(r"Executive branch - head of government", "head of government",
      "head of government|leader of the government|prime minister",
      "Who leads the government of {c}?|Who is the prime minister of {c}?|Who is the head of government of {c}?"),
    A(r"National anthem\(s\) - title", "national anthem title", "national anthem|title of the national anthem|anthem",
      "What is the national anthem of {c} called?|What song is the national anthem of {c}?"),
    A(r"Internet country code", "internet country code",
      "internet country code|internet domain|top-level domain|country domain",
      "Which internet domain does {c} use?|What is the internet domain of {c}?"),
    A(r"Elevation - highest point", "highest point elevation",
      "highest point|highest mountain|tallest mountain|highest peak",
      "What is the highest mountain in {c}?|Which mountain is the highest in {c}?|What is the tallest peak of {c}?"),
    A(r"Elevation - lowest point", "lowest point elevation", "lowest point|lowest place",
      "What is the lowest place in {c}?|Where is the lowest point of {c}?"),
    A(r"Independence", "independence", "independence|independence date|date of independence",
      "When did {c} become independent?|When did {c} gain independence?|Since when has {c} been independent?"),
    A(r"National holiday", "national holiday", "national holiday|national day",
      "When is the national holiday of {c}?|What is the national day of {c}?"),
    A(r"Climate", "climate", "climate|weather|type of climate",
      "What is the weather like in {c}?|What kind of climate does {c} have?"),
    A(r"Terrain", "terrain", "terrain|landscape|shape of the land",
      "What does the land look like in {c}?|What kind of terrain does {c} have?"),
    A(r"Natural resources", "natural resources", "natural resources|resources|raw materials",
      "What natural resources does {c} have?|Which resources does {c} have?"),
    A(r"Religions", "religions", "religions|religion|faiths",
      "What do people in {c} believe in?|Which religions are there in {c}?"),
    A(r"Languages(?: - Languages)?", "languages", "languages|language|spoken languages",
      "What do people speak in {c}?|Which languages are spoken in {c}?|What language do people speak in {c}?"),
    A(r"Ethnic groups", "ethnic groups", "ethnic groups|peoples|ethnic composition",
      "Which ethnic groups live in {c}?|Which peoples live in {c}?"),
    A(r"Land boundaries - border countries", "border countries",
      "border countries|neighbours|neighbouring countries|neighbors|bordering countries",
      "Which countries border {c}?|What countries are next to {c}?|Who are the neighbours of {c}?"),
    A(r"Industries", "industries", "industries|main industries|industry",
      "What industries does {c} have?|Which industries are there in {c}?"),
    A(r"Exports - partners", "exports partners", "export partners|biggest customers|main export partners",
      "Where does {c} sell its exports?|Who buys from {c}?|Which countries buy the exports of {c}?"),
    A(r"Imports - partners", "imports partners", "import partners|main import partners",
      "Where do the imports of {c} come from?|Who sells to {c}?"),
    A(r"Exports - commodities", "exports commodities", "export goods|export commodities|exported goods",
      "What does {c} export?|What goods does {c} sell abroad?"),
    A(r"Imports - commodities", "imports commodities", "import goods|import commodities|imported goods",
      "What does {c} import?|What goods does {c} buy abroad?"),
    A(r"Agricultural products", "agricultural products", "agricultural products|crops|farm products",
      "What do farmers grow in {c}?|Which crops does {c} grow?|What does {c} grow?"),
    A(r"Location", "location", "location|position|place on the map",
      "Where is {c}?|Where does {c} lie?|Where is {c} located?"),
    A(r"Nationality - noun", "nationality noun", "nationality|name for its people",
      "What are people from {c} called?|What do you call someone from {c}?"),
    A(r"National symbol\(s\)", "national symbols", "national symbol|national symbols|emblem",
      "What is the symbol of {c}?|Which symbol stands for {c}?"),
    A(r"National color\(s\)", "national colors", "national colors|national colours",
      "What are the colours of {c}?|Which colors stand for {c}?"),
    A(r"Legislative branch - legislature name", "legislature name", "legislature|parliament|name of the parliament",
      "What is the parliament of {c} called?|What is the legislature of {c} called?"),
    A(r"Suffrage", "suffrage", "suffrage|voting age|right to vote",
      "Who can vote in {c}?|At what age can people vote in {c}?"),
    A(r"Major urban areas - population", "major urban areas",
      "major urban areas|biggest cities|largest cities|main cities",
      "What are the biggest cities of {c}?|Which cities in {c} are the largest?"),
    A(r"Natural hazards", "natural hazards", "natural hazards|natural dangers|natural disasters",
      "What natural disasters happen in {c}?|Which natural hazards threaten {c}?"),
    A(r"Environmental issues", "environmental issues", "environmental issues|environmental problems",
      "What environmental problems does {c} have?|Which environmental issues does {c} face?"),
    A(r"Country name - conventional long form", "conventional long form country name",
      "official name|full name|long name",
      "What is {c} officially called?|What is the official name of {c}?"),
    A(r"Ports - key ports", "key ports", "key ports|main ports|harbours|important ports",
      "Which ports does {c} have?|What are the main ports of {c}?"),
    A(r"Military and security forces", "military and security forces", "armed forces|military forces|army",
      "What armed forces does {c} have?"),
)  # fmt: skip

DERIVED: tuple[Derived, ...] = (
    D("people per square kilometre", "total population", "total area",
      "population density|number of people per square kilometre|density of population|people per square kilometer|"
      "number of inhabitants per square kilometre",
      "How many people live on a square kilometre in {c}?|How many people per square kilometre does {c} have?|"
      "How densely populated is {c}?|How dense is the population of {c}?|How crowded is {c}?",
      "most people per square kilometre|highest population density|densest population|"
      "most inhabitants per square kilometre|most people per square kilometer|most people per sq km|"
      "most people per km2",
      "fewest people per square kilometre|lowest population density|fewest inhabitants per square kilometre|"
      "fewest people per sq km"),
    D("GDP per person", "GDP official exchange rate", "total population",
      "GDP divided by population|GDP at the exchange rate per person",
      "How much GDP at the exchange rate is there per person in {c}?",
      "most GDP at the exchange rate per person", "least GDP at the exchange rate per person", 0),
    D("exports per person", "exports", "total population",
      "exports per person|exports per head|value of exports per inhabitant",
      "How much does {c} export per person?",
      "most exports per person|highest exports per head", "fewest exports per person|lowest exports per head", 0),
    D("electricity per person", "electricity consumption", "total population",
      "electricity use per person|electricity consumption per head|power use per person",
      "How much electricity does each person use in {c}?",
      "highest electricity use per person|most electricity per head",
      "lowest electricity use per person|least electricity per head", 0),
    D("mobile phones per person", "total mobile cellular subscriptions", "total population",
      "mobile phones per person|mobile phone subscriptions per person",
      "How many mobile phones does each person have in {c}?",
      "most mobile phones per person", "fewest mobile phones per person", 2),
    D("workers per inhabitant", "labor force", "total population",
      "share of workers in the population|workers per inhabitant|workforce per person",
      "How many workers are there per inhabitant in {c}?",
      "most workers per inhabitant", "fewest workers per inhabitant", 3),
    D("water share", "water area", "total area",
      "share of water in the area|water area divided by total area|fraction of its area that is water",
      "Which fraction of {c} is water?",
      "largest share of water in its area|largest fraction of water",
      "smallest share of water in its area|smallest fraction of water", 4),
    D("women per man", "female population", "male population",
      "women per man|number of women for each man|female to male ratio",
      "How many women are there for each man in {c}?",
      "most women per man", "fewest women per man", 3),
)  # fmt: skip

NUMERIC = tuple(a for a in ATTRIBUTES if a.numeric)
TEXTS = tuple(a for a in ATTRIBUTES if not a.numeric)
BY_LABEL = {a.label: a for a in ATTRIBUTES}
SCALES = {"thousand": "e3", "million": "e6", "billion": "e9", "trillion": "e12"}


def literal(text: str) -> str | None:
    """The first figure of a Factbook value as a Python literal: `$131.673 billion (2023 est.)` -> `131.673e9`."""
    match = re.match(r"(-?)\$?(\d(?:[\d,]*\d)?(?:\.\d+)?)(?:\s+(thousand|million|billion|trillion)\b)?", text)
    if not match:
        return None
    return match[1] + match[2].replace(",", "_") + SCALES.get(match[3] or "", "")
