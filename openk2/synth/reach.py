"""Questions outside the model's reach, small talk, and repeating: answered honestly and without tools."""

from __future__ import annotations

import random
from pathlib import Path

from openk2.synth.heldout import held_out
from openk2.synth.names import Pieces, name, number_like, word
from openk2.synth.rows import read_rows
from openk2.synth.trajectory import Record, Trajectory
from openk2.synth.wordings import styled

CONNECT = "connect a larger model: k2 ask --base-url URL --model NAME"
OUTSIDE = (
    "That is outside my reach. I am nano, a very small model: I look up countries and your own files (--docs), and I"
    f" calculate. For this, {CONNECT}"
)
NOT_FOUND = f"I could not find that in the documents. For questions beyond them, {CONNECT}"
WHO = (
    "I am openk2 nano, a very small thinking model that runs offline. I look up facts about countries, search your own"
    f" files (--docs), calculate and follow long chains of steps. For more, {CONNECT}"
)

TALK = {
    "Hello! Ask me about a country, about your own files (--docs), or give me something to calculate.": (
        "hi", "hello", "hey", "good morning", "good evening", "hi there", "hello there", "hey there", "greetings",
        "hello!", "Hi!", "Hey!", "good day", "hallo", "hi nano", "hello nano", "Hello k2",
    ),
    WHO: (
        "who are you?", "what are you?", "what can you do?", "what is your name?", "help", "how do you work?",
        "which model are you?", "are you Kimi?", "are you a robot?", "what do you know?", "introduce yourself",
        "tell me about yourself", "are you an AI?", "what is openk2?", "what is nano?", "who made you?",
        "how can you help me?", "what are you good at?", "what kind of questions can I ask?",
        "which tools do you have?",
    ),
    "You are welcome.": (
        "thanks", "thank you", "thank you very much", "thanks a lot", "great, thanks", "cheers", "thanks!",
        "Thank you!", "many thanks",
    ),
}  # fmt: skip

TOPICS = (
    "love, the sea, autumn, a lost dog, my grandmother, space travel, a dragon, winter, friendship, a job"
    " interview, climate change, the moon, football, a birthday, coffee, an old house, time, the city at night, a"
    " broken heart, gardening, a robot, a cat, democracy, the future, trust, freedom, cooking, a train journey,"
    " rain, money, school, my boss, a wedding, sleep, music, the internet, bicycles, a ghost, the desert, hope"
).split(", ")
LANGUAGES = (
    "French German Spanish Italian Chinese Japanese Russian Arabic Portuguese Dutch Polish Turkish Hindi Korean"
    " Latin Greek Swedish"
).split()
CODE = "Python Java C++ Rust Go JavaScript Haskell SQL HTML Bash TypeScript Ruby".split()
TASKS = (
    "sorts a list, reverses a string, parses a log file, draws a chess board, downloads a page, computes primes,"
    " plays tic-tac-toe, reads a CSV file, finds duplicates, sends an email, resizes images, merges two lists,"
    " solves a maze, validates passwords, counts words"
).split(", ")
FORMS = (
    "poem, story, song, email, essay, letter, speech, joke, haiku, limerick, summary, blog post, short story, cover"
    " letter, rap, fairy tale, tweet, slogan, birthday card, dialogue"
).split(", ")
CONCEPTS = (
    "quantum entanglement, inflation, photosynthesis, gravity, machine learning, the French Revolution, relativity,"
    " blockchain, evolution, black holes, supply and demand, DNA, the Cold War, recursion, stoicism, vaccines,"
    " entropy, the Renaissance, plate tectonics, neural networks, opera, yoga, karma, chess openings, jazz"
).split(", ")
OUTSIDE_FRAMES = (
    "Write a {form} about {topic}.", "Write me a {form} about {topic}.", "Can you write a {form} on {topic}?",
    "Compose a {form} for {who}.", "I want a {form} about {topic}.", "Make up a {form} about {topic}.",
    "Tell me a {form} about {topic}.", "Could you draft a {form} to {who} about {topic}?",
    "Translate '{words}' into {lang}.", "How do you say '{words}' in {lang}?", "What does '{words}' mean in {lang}?",
    "Translate this to {lang}: {words}", "Please translate {words} to {lang}.", "Write a {code} program that {task}.",
    "Write {code} code that {task}.", "Can you give me a {code} function that {task}?", "Fix my {code} code: {words}",
    "Debug this {code} script for me.", "How do I write a {code} script that {task}?", "Explain {concept}.",
    "Explain {concept} to a child.", "What is {concept}?", "How does {concept} work?", "Why is {concept} important?",
    "Teach me about {concept}.", "Give me an introduction to {concept}.", "What should I know about {concept}?",
    "What do you think about {topic}?", "What is your opinion on {topic}?", "Do you like {topic}?",
    "Should I worry about {topic}?", "How do I deal with {topic}?", "What should I say to {who}?",
    "Give me advice about {topic}.", "How can I get better at {concept}?", "Recommend a book about {topic}.",
    "Recommend a film about {concept}.", "Which restaurant should I visit in {place}?", "Plan a trip to {place}.",
    "Plan my week.", "What will the weather be tomorrow in {place}?", "What is the weather in {place} today?",
    "Book a flight to {place}.", "Order a pizza to {place}.", "What time is it?", "What day is today?",
    "What is the news today?", "What happened in {place} yesterday?", "What is the price of bitcoin?",
    "How is the stock of {who} doing?", "Draw a picture of {topic}.", "Paint {topic}.", "Play a song about {topic}.",
    "Set an alarm for seven.", "Call {who}.", "Send {who} a message.", "Summarise the news about {place}.",
    "Summarize this: {words}", "Rewrite this politely: {words}", "Correct my grammar: {words}",
    "Is {topic} better than {concept}?", "Who will win the election in {place}?", "Give me three ideas for {topic}.",
    "Brainstorm names for {topic}.", "Make me laugh.", "Tell me a joke.", "Sing something.",
    "Prove that {concept} is true.", "What is the meaning of life?", "Can you see this picture?", "Role-play as {who}.",
    "Pretend to be {who}.", "How do I cook {words}?", "Give me a recipe for {words}.",
    "What are the symptoms of {concept}?", "Is it healthy to eat {words}?", "Diagnose my headache.",
    "Give me legal advice about {topic}.", "Invest my money in {concept}.", "Review my essay on {topic}.",
    "How is {who}?", "How is {who} doing today?", "How are the shares of {who}?", "Where is {who} now?",
    "Where can I buy {words}?", "Where should I eat in {place}?", "Where can I park in {place}?",
    "Which hotel in {place} is the best?", "Which museum in {place} should I see?", "Which shop sells {words}?",
    "Which film should I watch tonight?", "Which phone should I buy?", "Which book by {who} is the best?",
    "Which song is about {topic}?", "Which party should I vote for?", "Which {code} library is the fastest?",
    "What should I cook tonight?", "What should I do in {place}?", "What should I give {who}?",
    "What should I wear in {place}?", "What is the best way to learn {lang}?", "What is the point of {topic}?",
    "What is the purpose of {concept}?", "What is the secret of {topic}?", "What is the phone number of {who}?",
    "What is the address of {who}?", "What is the age of {who}?", "What is the email of {who}?",
    "What is the salary of {who}?", "What is the price of {words}?", "What is the score of the game in {place}?",
    "What is the exchange rate today?", "What is the traffic like in {place}?", "What is the time in {place}?",
    "What is the definition of {concept}?", "What is the history of {concept}?", "What is the theory of {concept}?",
    "What is the plot of {words}?", "What is the best restaurant in {place}?", "What is the best film about {topic}?",
    "What is the difference between {concept} and {topic}?", "What are the rules of {concept}?",
    "What are the benefits of {concept}?", "What are the dangers of {topic}?", "What are my appointments today?",
    "What are good names for {topic}?", "What did {who} say?", "What did I eat yesterday?", "What do you feel?",
    "What does {who} want?", "What does my dream about {topic} mean?", "What can I do against {topic}?",
    "Who is {who}?", "Who invented {words}?", "Who wrote the book about {topic}?", "Who sang {words}?",
    "Who won the game in {place} last night?", "Who is the best player of {place}?", "Who is in the room?",
    "Who discovered {concept}?", "Who was the first to explain {concept}?", "When does my train leave?",
    "When is the birthday of {who}?", "When will {who} arrive in {place}?", "When was {words} invented?",
    "When does the shop in {place} open?", "Why is {topic} so sad?", "Why do people like {topic}?",
    "Why did {who} leave {place}?", "Why does {concept} matter?", "Why am I tired?", "Why is the sky blue?",
    "How do I fix {words}?", "How do I learn {lang}?", "How do I get to {place} by bus?", "How do I install {code}?",
    "How do I tell {who} about {topic}?", "How can I lose weight?", "How can I sleep better?",
    "How can I make money with {concept}?", "How much does {words} cost?", "How much is a ticket to {place}?",
    "How many followers does {who} have?", "How many calories are in {words}?", "How old is {who}?",
    "How tall is {who}?", "How far is it from here to the station?", "How long does the flight to {place} take?",
    "How long should I boil {words}?", "Is {who} right about {concept}?", "Is it going to rain in {place}?",
    "Is {concept} real?", "Are you happy?", "Are there good jobs in {place}?", "Am I too old for {topic}?",
    "Do I need a coat in {place} today?", "Do aliens exist?", "Does {who} love me?", "Did {who} call?",
    "Will {concept} change the world?", "Will it snow tomorrow?", "Would you marry me?",
    "Should I learn {code} or {lang}?", "Should I buy {words}?", "Should I move to {place}?",
    "Can you drive me to {place}?", "Can you hear me?", "Can you teach me {lang}?", "Can you recommend a hotel?",
    "Could you invent a story about {who}?", "Could you improve this sentence: {words}",
    "Remind me to call {who}.", "Remember that {who} likes {topic}.", "Turn on the light.", "Open the door.",
    "Buy {words} for {who}.", "Cancel my meeting with {who}.", "Check my email.", "Show me a photo of {place}.",
    "Show me pictures of {topic}.", "Design a logo for {topic}.", "Compose music about {topic}.",
    "Convert this {code} code to Python: {words}", "Optimise my {code} program.", "Refactor {words} in {code}.",
    "Write unit tests for my {code} program.", "Write a regular expression for {words}.",
    "Write a letter to {who}.", "Write down what {who} said.", "Describe {topic}.", "Describe {who} in three words.",
    "Define {concept}.", "Discuss {concept} and {topic}.", "Argue against {concept}.", "Continue this: {words}",
    "Complete the sentence: {words}", "Find a rhyme for {words}.", "Find me a flat in {place}.",
    "Find a doctor near me.", "Help me with {concept}.", "Help me choose a name for {topic}.",
    "Help {who} with the homework.", "Imagine {topic} without {concept}.", "Let us talk about {topic}.",
    "Let us play a game.", "Say something nice about {who}.", "Tell me about {topic}.", "Tell me about {concept}.",
    "Tell me something about {who}.", "Tell me who {who} is.", "Tell me what to do.", "Surprise me.",
    "I am sad about {topic}.", "I have a problem with {topic}.", "I have a headache.", "I want to learn {code}.",
    "I need a {form} for {who}.", "I need help with {concept}.", "I need a hotel in {place}.", "I love {topic}.",
    "My {code} program does not work.", "My friend says that {concept} is wrong.", "My computer is slow.",
)  # fmt: skip
REPEAT_FRAMES = (
    "Repeat exactly: {x}", "Say this back to me: {x}", "Repeat after me: {x}", "Copy this text: {x}",
    "Write this again: {x}", "Echo: {x}",
)  # fmt: skip
LIST_FRAMES = ("{x}\nSay these again, in one row.", "{x}\nRepeat them in one row.", "{x}\nThe same in one row, please.")


def load_table_questions(path: Path, held: bool = False) -> list[str]:
    """Human-written questions about web tables: without their table nobody can answer them."""
    questions = [row.get("question") or "" for row in read_rows(path)]
    return [q for q in dict.fromkeys(questions) if 15 < len(q) < 140 and held_out("table question", q) == held]


def outside(rng: random.Random, pieces: Pieces, held: bool = False) -> Record:
    """What a very small model cannot do; `held`: in the wordings held out from training."""
    frame = rng.choice([f for f in OUTSIDE_FRAMES if held_out("reach", f) == held])
    some = " ".join(word(rng, pieces).lower() for _ in range(rng.randint(1, 4)))
    question = frame.format(
        form=rng.choice(FORMS),
        topic=rng.choice(TOPICS) if rng.random() < 0.6 else f"{rng.choice(('a', 'the', 'my'))} {some}",
        who=rng.choice(("my boss", "my friend", "my mother", "a customer", "my teacher", name(rng, pieces))),
        words=some,
        lang=rng.choice(LANGUAGES),
        code=rng.choice(CODE),
        task=rng.choice(TASKS),
        concept=rng.choice(CONCEPTS) if rng.random() < 0.7 else some,
        place=name(rng, pieces),
    )
    t = Trajectory(styled(rng, question))
    t.answer("I have no tool for that and I do not know enough.", OUTSIDE)
    return t.record("outside", gold=None)


def talk(rng: random.Random) -> Record:
    """Greetings, thanks, and questions about the model itself."""
    reply = rng.choice(list(TALK))
    t = Trajectory(rng.choice(TALK[reply]))
    t.answer("This is small talk.", reply)
    return t.record("talk", gold=reply)


def repeat(rng: random.Random, pieces: Pieces, titles: list[str]) -> Record:
    """Copying pure and simple, over the whole vocabulary and all lengths; a part of it names, one a line."""
    if rng.random() < 0.4:
        return _names(rng, pieces, titles)
    parts = []
    for _ in range(rng.randint(2, 14)):
        roll = rng.random()
        if roll < 0.55:
            parts.append(word(rng, pieces) if rng.random() < 0.6 else word(rng, pieces).lower())
        elif roll < 0.75:
            parts.append(number_like(rng, rng.choice(("1", "12", "123", "1,234", "12.5", "1,234,567", "0.25"))))
        else:
            parts.append(rng.choice(pieces.starts + pieces.middles))
    text = " ".join(parts)
    return _said_again(rng.choice(REPEAT_FRAMES).format(x=text), text)


def _names(rng: random.Random, pieces: Pieces, titles: list[str]) -> Record:
    """Names at the start of a line and again after a space, where the tokenizer cuts them in other pieces."""
    names = [rng.choice(titles) if rng.random() < 0.6 else name(rng, pieces) for _ in range(rng.randint(2, 10))]
    if rng.random() < 0.4:
        names = [each.lower() for each in names]
    return _said_again(rng.choice(LIST_FRAMES).format(x="\n".join(names)), ", ".join(names))


def _said_again(question: str, text: str) -> Record:
    t = Trajectory(question)
    t.answer("I copy it.", f"Here it is: {text}")
    return t.record("repeat", gold=text)
