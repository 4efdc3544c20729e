from chaos.asking import RETRIES, ask, told
from main.chat_models import ChatModel
from main.registry import flow
from main.run import Run


@flow(public=True, steps=3, step_retries=RETRIES)
def stream_flow(run: Run, llm: ChatModel, tag: str, seconds: float) -> dict[str, object]:
    """Have two texts written, token by token."""
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate

    def write(name: str) -> str:
        # The attempt is no input of the step, which has to be the same in every attempt.
        prompt = ChatPromptTemplate.from_template(
            "execution {execution} step {step} attempt {attempt} seconds {seconds}"
        ).partial(attempt=str(run.attempt))
        asked = {"execution": run.id, "step": name, "seconds": str(seconds * 0.4)}
        return run.step(name, prompt | llm | StrOutputParser(), asked)

    think = run.step("Think", lambda: ask(run, "Think", seconds / 5))
    return told(run, [think, write("Write"), write("Write on")])
