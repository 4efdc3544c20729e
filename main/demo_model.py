"""The demo model: a chat model that needs no key, knows nothing and says so.

It composes a small verse on a theme, and answers questions with sentences from the texts in the prompt. The
same prompt gives the same answer. It streams word by word, so that all that surrounds a model can be tried.
"""

import ast
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolCall
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from main.demo_verse import compose


class DemoChatModel(BaseChatModel):
    """The model behind "demo:". `token_delay` is the time between two streamed words, in seconds."""

    model_name: str = "demo"
    token_delay: float = 0.0

    @property
    def _llm_type(self) -> str:
        return "demo"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "demo"
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        text, calls = _respond(messages, stop, **kwargs)
        message = AIMessage(
            content=text,
            tool_calls=calls,
            usage_metadata=_usage(messages, text),
            response_metadata=self._metadata(),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        text, calls = _respond(messages, stop, **kwargs)
        for word in _words(text):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
            time.sleep(self.token_delay)
        last = AIMessageChunk(
            content="",
            tool_call_chunks=[
                tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
                for index, call in enumerate(calls)
            ],
            usage_metadata=_usage(messages, text),
            response_metadata=self._metadata(),
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=last)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Bind tools. The model calls one only where `tool_choice` demands it, with made-up arguments."""
        specs = [convert_to_openai_tool(each) for each in tools]
        return self.bind(tools=specs, tool_choice=tool_choice, **kwargs)

    def _metadata(self) -> dict[str, Any]:
        return {"model_name": self.model_name, "model_provider": "demo", "finish_reason": "stop"}


def _respond(
    messages: Sequence[BaseMessage],
    stop: list[str] | None = None,
    tools: Sequence[dict[str, Any]] = (),
    tool_choice: Any = None,
    **_: Any,
) -> tuple[str, list[ToolCall]]:
    """Return the text of the answer, or the one tool call that was demanded."""
    if tools and tool_choice:
        return "", [_call(tools, tool_choice, _read(messages).question)]
    text = _answer(_read(messages))
    for end in stop or []:
        text = text.partition(end)[0]
    return text, []


def _words(text: str) -> list[str]:
    """Split text into words with the space after them; joined again they are the text."""
    return re.findall(r"\S+\s*|\s+", text)


def _usage(messages: Sequence[BaseMessage], text: str) -> UsageMetadata:
    given = sum(len(_words(message.text)) for message in messages)
    written = len(_words(text))
    return UsageMetadata(input_tokens=given, output_tokens=written, total_tokens=given + written)


# Reading a prompt


@dataclass(frozen=True)
class Source:
    """A text in the prompt, with the number and the address that stand beside it."""

    text: str
    title: str = ""
    label: str = ""
    address: str = ""

    @property
    def citation(self) -> str:
        label = f"[{self.label}]" if self.label else self.address
        return f" [{label}](<{self.address}>)" if self.address else f" {label}".rstrip()


@dataclass(frozen=True)
class Prompt:
    request: str
    question: str
    sources: tuple[Source, ...]

    @property
    def spanish(self) -> bool:
        return bool(SPANISH.search(self.question))


ADDRESS = re.compile(r"(?:https?://|(?<!\S)/docs/)[^\s<>\"')\]]+")
LABEL = re.compile(r"^\s*\[(\d+)\]\s*|^\s*(\d+)[.)]\s+")
QUESTION = re.compile(r"^\s*(?:question|query|pregunta|consulta)\s*:\s*(.+)", re.IGNORECASE | re.MULTILINE)
# A heading such as "Search results:", after which texts follow.
GIVEN = re.compile(
    r"^[^\n.]{0,40}\b(?:context|contexto|sources|fuentes|passages|documents|documentos|results|resultados)\s*:",
    re.IGNORECASE | re.MULTILINE,
)
POEM = re.compile(
    r"\b(?:poems?|poetry|verses?|rhymes?|ode|sonnet|poemas?|poesía|versos?|rimas?|oda|soneto)\b",
    re.IGNORECASE,
)
THEME = re.compile(
    r"\b(?:theme|topic|tema)\s*:\s*([^\n.?!]+)|\b(?:about|on|sobre|acerca de)\s+([^\n.?!,;:]+)", re.IGNORECASE
)
SPANISH = re.compile(
    r"[¿¡ñáéíóú]|\b(?:el|la|los|las|una?|sobre|poema|qué|que|cómo|como|con|para)\b", re.IGNORECASE
)


def _read(messages: Sequence[BaseMessage]) -> Prompt:
    """Find the question and the texts that came with it."""
    asked = next((message.text for message in reversed(messages) if message.type == "human"), "")
    question = _question(asked)
    sources = tuple(source for message in messages for source in _sources(_given(message), question))
    return Prompt(asked, question, sources)


def _given(message: BaseMessage) -> str:
    """Return the part of a message that may hold texts; of instructions, what follows "Context:"."""
    if message.type in ("human", "tool"):
        return message.text
    heading = GIVEN.search(message.text) if message.type == "system" else None
    return message.text[heading.end() :] if heading else ""


def _question(asked: str) -> str:
    if named := QUESTION.search(asked):
        return named[1].strip()
    before, mark, _ = asked.rpartition("?")
    if mark:
        return re.split(r"[\n.?!]", before)[-1].strip() + mark
    return asked.strip().partition("\n\n")[0]


def _sources(text: str, question: str) -> Iterator[Source]:
    """Yield the texts in a message: search results as JSON, or paragraphs other than the question."""
    if records := _records(text):
        yield from (_from_record(record) for record in records)
        return
    begun = Source("")
    for paragraph in re.split(r"\n\s*\n", text):
        body = _without_question(paragraph, question)
        if ADDRESS.search(body) or LABEL.match(body):
            begun = _heading(body)
        rest = LABEL.sub("", body, count=1).removeprefix(begun.title)
        if rest := ADDRESS.sub("", rest, count=1).strip():
            yield replace(begun, text=rest)


def _records(text: str) -> list[dict[str, Any]]:
    """Return the list of {"url", "content"} that stands in a text, as JSON or as Python writes it."""
    begin = re.search(r"\[\s*\{", text)
    data = text[begin.start() : text.rfind("]") + 1] if begin else ""
    for read in (json.loads, ast.literal_eval) if data else ():
        try:
            records = read(data)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        return [each for each in records if isinstance(each, dict) and isinstance(each.get("content"), str)]
    return []


def _from_record(record: dict[str, Any]) -> Source:
    return Source(
        record["content"], title=str(record.get("title") or ""), address=str(record.get("url") or "")
    )


def _without_question(paragraph: str, question: str) -> str:
    heading = GIVEN.match(paragraph)
    body = QUESTION.sub("", paragraph[heading.end() if heading else 0 :])
    return body.replace(question, "").strip() if question else body.strip()


def _heading(body: str) -> Source:
    """Return the number, the title and the address with which a text begins."""
    label, address = LABEL.match(body), ADDRESS.search(body)
    before = LABEL.sub("", body[: address.start()], count=1) if address else ""
    return Source(
        "",
        title=before.strip().partition("\n")[0],
        label=(label[1] or label[2]) if label else "",
        address=address[0].rstrip(".,;") if address else "",
    )


# Answering

SIGNED = {
    False: "*Answered by the demo model: it picks sentences from the texts and adds nothing.*",
    True: "*Respuesta del modelo de demostración: elige frases de los textos y no añade nada.*",
}
VERSE_SIGNED = {False: "*Verse by the demo model.*", True: "*Versos del modelo de demostración.*"}
INTRODUCTION = {
    False: "This is the demo model. It knows nothing of its own: it can compose a small verse on a theme, "
    "and pick the sentences from a text that speak to a question. With GEMINI_API_KEY a real one answers.",
    True: "Este es el modelo de demostración. No sabe nada por sí mismo: puede componer unos versos sobre "
    "un tema y elegir de un texto las frases que responden a una pregunta. Con GEMINI_API_KEY contesta uno "
    "real.",
}
FOUND = {False: "The texts say:", True: "Los textos dicen:"}
NOTHING = {False: "The texts say nothing about this.", True: "Los textos no dicen nada sobre esto."}
QUIET = {False: "the quiet", True: "la calma"}

MAX_SENTENCES = 4
# Words that say nothing about what a question is about, in both languages.
COMMON = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by can did do does for from had has have he her his how i if in "
        "into is it its me my not of on one or our she so some such than that the their them then there "
        "these they this to was we were what when where which who why will with would you your al como "
        "con cual cuando cómo cuál cuándo de del dónde el en es ese esta este la las lo los más no o "
        "para pero por porque que quién qué se si sin sobre son su sus un una unas unos y ya",
    )
)


def _answer(prompt: Prompt) -> str:
    spanish = prompt.spanish
    if any(source.address or source.label for source in prompt.sources):
        return _extract(prompt)
    if POEM.search(prompt.request):
        return f"{compose(_theme(prompt), spanish)}\n\n{VERSE_SIGNED[spanish]}"
    return _extract(prompt) if prompt.sources else INTRODUCTION[spanish]


def _theme(prompt: Prompt) -> str:
    found = THEME.search(prompt.request)
    return (found[1] or found[2]).strip(" \"'“”") if found else QUIET[prompt.spanish]


def _extract(prompt: Prompt) -> str:
    """Answer with the sentences that share most words with the question, in the order of the texts."""
    best = _best_sentences(prompt)
    lines = [FOUND[prompt.spanish], "", *(f"- {sentence}{source.citation}" for source, sentence in best)]
    body = "\n".join(lines) if best else NOTHING[prompt.spanish]
    return f"{body}\n\n{SIGNED[prompt.spanish]}"


def _best_sentences(prompt: Prompt) -> list[tuple[Source, str]]:
    found = {
        sentence: source
        for source in reversed(prompt.sources)
        for sentence in reversed(_sentences(source.text))
    }
    ordered = [(source, sentence) for sentence, source in reversed(found.items())]
    spoken = Counter(word for _, sentence in ordered for word in _stems(sentence))
    wanted = {word: math.log(1 + len(ordered) / (1 + spoken[word])) for word in _stems(prompt.question)}

    def score(place: int) -> float:
        source, sentence = ordered[place]
        own, above = _stems(sentence), _stems(source.title)
        if own.isdisjoint(wanted):  # a title alone does not make a sentence an answer
            return 0.0
        return sum(weight * ((word in own) + (word in above) / 3) for word, weight in wanted.items())

    ranked = sorted(range(len(ordered)), key=lambda place: (-score(place), place))
    return [ordered[place] for place in sorted(ranked[:MAX_SENTENCES]) if score(place) > 0]


def _sentences(text: str) -> list[str]:
    """Split text into sentences, leaving out headings and scraps."""
    parts = re.split(r"(?<=[.!?…:])\s+(?=[^a-záéíóúñ])|\n+", text)
    return [part.strip() for part in parts if len(part.split()) >= 4]


def _stems(text: str) -> set[str]:
    words = re.findall(r"[^\W_]{2,}", text.lower())
    return {re.sub(r"(?<=\w{3})(?:ings?|ed|es|s)$", "", word) for word in words if word not in COMMON}


# Tools


def _call(tools: Sequence[dict[str, Any]], choice: Any, question: str) -> ToolCall:
    name = choice["function"]["name"] if isinstance(choice, dict) else choice
    functions = [tool["function"] for tool in tools]
    function = next((each for each in functions if each["name"] == name), functions[0])
    return tool_call(name=function["name"], args=_example(function["parameters"], question), id="demo-call")


def _example(schema: dict[str, Any], question: str) -> Any:
    """Return a value that fits a JSON Schema: strings are the question, numbers its first number."""
    for key in ("default", "const"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    if choices := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return _example(choices[0], question)
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {name: _example(properties[name], question) for name in schema.get("required", properties)}
        case "array":
            return [_example(schema.get("items", {}), question)] * schema.get("minItems", 0)
        case "integer" | "number":
            number = re.search(r"\d+", question)
            return int(number[0]) if number else schema.get("minimum", 0)
        case "boolean":
            return False
        case "null":
            return None
        case _:
            return question[: schema.get("maxLength")]
