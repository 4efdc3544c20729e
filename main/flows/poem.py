import random
from typing import Any

from main.chat_models import ChatModel
from main.registry import flow
from main.run import Run

THEMES = (
    "the sea at night",
    "an old lighthouse",
    "the first snow",
    "a train before dawn",
    "rain on a tin roof",
    "a garden in June",
    "a letter that came late",
    "the last bus home",
    "a map of a city that is gone",
    "the smell of bread",
    "a kite in March",
    "the stars over a harbour",
)


@flow(title="Poem", public=True, steps=2)
def poem_flow(run: Run, llm: ChatModel) -> str:
    """Write a short poem on a theme that is drawn at random."""
    theme: str = run.step("Choose a theme", choose_theme, THEMES)
    poem: str = run.step("Write the poem", poem_chain(llm), {"theme": theme})
    return poem


def choose_theme(themes: tuple[str, ...]) -> str:
    return random.choice(themes)  # noqa: S311 nothing hangs on it but a poem


def poem_chain(llm: ChatModel) -> Any:
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate

    prompt = ChatPromptTemplate.from_messages(
        [
            ("system", "You are a poet. Write verse with rhyme and metre, plain words and exact images."),
            ("human", "Write a short poem of two to four stanzas, with a title, about {theme}."),
        ]
    )
    return prompt | llm | StrOutputParser()
