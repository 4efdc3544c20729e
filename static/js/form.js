/* A form made from a flow's JSON Schema. */

import { h, setText } from "./dom.js";
import { amount, fill, gettext } from "./words.js";

const LONG = 200;

/** The schema with $ref followed and "or null" taken apart: {schema, nullable}. */
function resolve(schema, root) {
  if (schema.$ref) {
    const target = schema.$ref
      .replace(/^#\//, "")
      .split("/")
      .reduce((node, key) => node?.[key.replaceAll("~1", "/").replaceAll("~0", "~")], root);
    const { $ref, ...beside } = schema;
    return resolve({ ...target, ...beside }, root);
  }
  if (schema.allOf?.length === 1) {
    const { allOf, ...beside } = schema;
    return resolve({ ...allOf[0], ...beside }, root);
  }
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices?.some((choice) => choice.type === "null")) {
    const rest = choices.filter((choice) => choice.type !== "null");
    const { anyOf, oneOf, ...beside } = schema;
    const inner = rest.length === 1 ? resolve(rest[0], root).schema : { anyOf: rest };
    return { schema: { ...inner, ...beside }, nullable: true };
  }
  if (Array.isArray(schema.type) && schema.type.includes("null")) {
    const types = schema.type.filter((type) => type !== "null");
    return { schema: { ...schema, type: types.length === 1 ? types[0] : types }, nullable: true };
  }
  return { schema, nullable: false };
}

function kindOf(schema, root) {
  if (schema.enum || "const" in schema) return Choice;
  if (schema.type === "boolean") return Switch;
  if (schema.type === "integer" || schema.type === "number") return Amount;
  if (schema.type === "string") return Text;
  if (schema.type === "array") {
    const items = resolve(schema.items ?? {}, root).schema;
    if (items.type === "string" && !items.enum) return Lines;
  }
  return Nested;
}

class Wrong extends Error {}

/** One input of a flow. Subclasses build the control, give its value and complain by throwing Wrong. */
class Field {
  constructor(name, schema, { nullable, required }) {
    this.name = name;
    this.schema = schema;
    this.nullable = nullable;
    this.required = required;
    this.id = `input-${name}`;
    this.control = this.build();
    this.errorText = h("p", { class: "field-error", id: `${this.id}-error`, hidden: true });
    this.hintText = h("p", { class: "hint", id: `${this.id}-hint` }, this.hint());
    this.control.id = this.id;
    this.about = schema.description ? h("p", { class: "about", id: `${this.id}-about` }, schema.description) : null;
    const described = [this.about, this.hintText.textContent && this.hintText, this.errorText].filter(Boolean);
    this.control.setAttribute("aria-describedby", described.map((element) => element.id).join(" "));
    if (required) this.control.setAttribute("aria-required", "true");
    this.element = this.frame();
    this.set(schema.default);
    this.control.addEventListener("input", () => this.changed());
  }

  get title() {
    return this.schema.title || this.name;
  }

  label() {
    const optional = this.required ? null : h("span", { class: "optional" }, ` ${gettext("optional")}`);
    return h("label", { for: this.id }, this.title, optional);
  }

  frame() {
    const hint = this.hintText.textContent ? this.hintText : null;
    const below = h("div", { class: "below" }, this.errorText, hint);
    return h("div", { class: "field" }, this.label(), this.about, this.control, below);
  }

  hint() {
    return "";
  }

  changed() {
    if (!this.errorText.hidden) this.complain([]);
  }

  /** The value to send, or undefined to leave the input out. */
  value() {
    const raw = this.control.value;
    if (raw !== "") return this.parse(raw);
    if (this.required && !this.nullable) throw new Wrong(gettext("Please fill this in."));
    if (this.required) return null;
    // An emptied input that had a default says "nothing", where that is allowed; else the default holds.
    return this.nullable && this.schema.default ? null : undefined;
  }

  parse(raw) {
    return raw;
  }

  set(value) {
    this.control.value = value ?? "";
  }

  complain(sentences) {
    setText(this.errorText, sentences.join(" "));
    this.errorText.hidden = !sentences.length;
    if (sentences.length) this.control.setAttribute("aria-invalid", "true");
    else this.control.removeAttribute("aria-invalid");
  }
}

const INPUT_TYPES = { date: "date", email: "email", uri: "url", time: "time" };

class Text extends Field {
  get long() {
    return !this.schema.format && !((this.schema.maxLength ?? Infinity) <= LONG);
  }

  build() {
    if (this.long) return h("textarea", { rows: 3 });
    return h("input", { type: INPUT_TYPES[this.schema.format] ?? "text", autocomplete: "off" });
  }

  hint() {
    return this.long && this.schema.maxLength ? this.count() : "";
  }

  count() {
    return `${amount([...(this.control.value ?? "")].length)} / ${amount(this.schema.maxLength)}`;
  }

  changed() {
    super.changed();
    if (this.long && this.schema.maxLength) {
      setText(this.hintText, this.count());
      this.hintText.classList.toggle("over", [...this.control.value].length > this.schema.maxLength);
    }
  }

  value() {
    const text = this.control.value;
    if (text !== "") return this.parse(text);
    if (this.required && !this.schema.minLength && !this.schema.format && !this.nullable) return "";
    if (!this.required && !this.nullable && this.schema.default) return "";
    return super.value();
  }

  parse(text) {
    const { minLength = 0, maxLength = Infinity } = this.schema;
    const length = [...text].length;
    if (this.required && minLength && !text.trim()) throw new Wrong(gettext("Please fill this in."));
    if (length < minLength)
      throw new Wrong(fill(gettext("Please write at least %(count)s characters."), { count: amount(minLength) }));
    if (length > maxLength)
      throw new Wrong(
        fill(gettext("At most %(count)s characters are allowed; this is %(length)s."), {
          count: amount(maxLength),
          length: amount(length),
        }),
      );
    return text;
  }

  set(value) {
    super.set(value);
    this.changed();
  }
}

class Amount extends Field {
  build() {
    const { minimum, maximum, type } = this.schema;
    return h("input", { type: "number", min: minimum, max: maximum, step: type === "integer" ? 1 : "any" });
  }

  hint() {
    const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = this.schema;
    const low = minimum ?? exclusiveMinimum;
    const high = maximum ?? exclusiveMaximum;
    const [from, to] = [low, high].map((bound) => (bound === undefined ? "" : amount(bound)));
    if (from && to) {
      if (exclusiveMinimum !== undefined) return fill(gettext("above %(from)s, up to %(to)s"), { from, to });
      return fill(gettext("from %(from)s to %(to)s"), { from, to });
    }
    if (from) return fill(exclusiveMinimum === undefined ? gettext("%(from)s or more") : gettext("above %(from)s"), { from });
    if (to) return fill(exclusiveMaximum === undefined ? gettext("%(to)s or less") : gettext("below %(to)s"), { to });
    return "";
  }

  value() {
    if (this.control.validity.badInput) throw new Wrong(gettext("Please enter a number."));
    return super.value();
  }

  parse(raw) {
    const value = Number(raw);
    const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, type } = this.schema;
    if (!Number.isFinite(value)) throw new Wrong(gettext("Please enter a number."));
    if (type === "integer" && !Number.isInteger(value)) throw new Wrong(gettext("Please enter a whole number."));
    const outside =
      value < minimum || value > maximum || value <= exclusiveMinimum || value >= exclusiveMaximum;
    if (outside) throw new Wrong(fill(gettext("Please enter a number: %(bounds)s."), { bounds: this.hint() }));
    return value;
  }
}

class Switch extends Field {
  build() {
    return h("input", { type: "checkbox" });
  }

  frame() {
    this.control.removeAttribute("aria-required");
    const label = h("label", { for: this.id }, this.control, h("span", {}, this.title));
    return h("div", { class: "field field-switch" }, label, this.about, this.errorText);
  }

  value() {
    return this.control.checked;
  }

  set(value) {
    this.control.checked = value === true;
  }
}

class Choice extends Field {
  get choices() {
    return this.schema.enum ?? [this.schema.const];
  }

  build() {
    const options = this.choices.map((choice, index) =>
      h("option", { value: index }, typeof choice === "string" ? choice : JSON.stringify(choice)),
    );
    const blank = this.required && !this.nullable ? gettext("Please choose") : gettext("No choice");
    const needsBlank = this.schema.default === undefined || this.schema.default === null || this.nullable;
    return h("select", {}, needsBlank ? h("option", { value: "" }, blank) : null, ...options);
  }

  parse(raw) {
    return this.choices[Number(raw)];
  }

  set(value) {
    const index = this.choices.findIndex((choice) => JSON.stringify(choice) === JSON.stringify(value));
    this.control.value = index < 0 ? "" : String(index);
  }
}

class Lines extends Field {
  build() {
    return h("textarea", { rows: 3 });
  }

  hint() {
    const { maxItems } = this.schema;
    if (maxItems) return fill(gettext("One per line, at most %(count)s."), { count: amount(maxItems) });
    return gettext("One per line.");
  }

  parse(raw) {
    const lines = raw
      .split("\n")
      .map((line) => line.trim())
      .filter(Boolean);
    const { minItems = 0, maxItems = Infinity } = this.schema;
    if (lines.length < minItems)
      throw new Wrong(fill(gettext("Please write at least %(count)s lines."), { count: amount(minItems) }));
    if (lines.length > maxItems)
      throw new Wrong(fill(gettext("At most %(count)s lines are allowed."), { count: amount(maxItems) }));
    return lines;
  }

  value() {
    const empty = !this.control.value.trim();
    if (empty && this.required && !this.schema.minItems) return [];
    if (empty && !this.required && !this.nullable && this.schema.default?.length) return [];
    return super.value();
  }

  set(value) {
    this.control.value = (value ?? []).join("\n");
  }
}

class Nested extends Field {
  build() {
    const placeholder = this.schema.type === "array" ? "[]" : "{}";
    return h("textarea", { rows: 4, class: "mono", spellcheck: "false", placeholder });
  }

  hint() {
    const keys = Object.keys(this.schema.properties ?? {}).join(", ");
    return keys ? fill(gettext("Written as JSON, with %(keys)s."), { keys }) : gettext("Written as JSON.");
  }

  parse(raw) {
    try {
      return JSON.parse(raw);
    } catch {
      throw new Wrong(gettext("This is not valid JSON."));
    }
  }

  set(value) {
    this.control.value = value === undefined || value === null ? "" : JSON.stringify(value, null, 2);
  }
}

/** The fields of one flow, in a container. */
export class Fields {
  constructor(container, flow, values) {
    const root = flow.schema ?? {};
    const required = new Set(root.required ?? []);
    this.fields = Object.entries(root.properties ?? {}).map(([name, raw]) => {
      const { schema, nullable } = resolve(raw, root);
      return new (kindOf(schema, root))(name, schema, { nullable, required: required.has(name) });
    });
    container.replaceChildren(...this.fields.map((field) => field.element));
    if (values) this.set(values);
  }

  set(values) {
    for (const field of this.fields) {
      field.complain([]);
      field.set(field.name in values ? values[field.name] : field.schema.default);
    }
  }

  /** What is written in the controls, as it is, to be put back later. */
  draft() {
    return this.fields.map(({ control }) => (control.type === "checkbox" ? control.checked : control.value));
  }

  restore(draft) {
    if (draft?.length !== this.fields.length) return;
    this.fields.forEach((field, index) => {
      if (field.control.type === "checkbox") field.control.checked = draft[index];
      else field.control.value = draft[index];
      field.changed();
    });
  }

  /** The inputs to send, or null where something is wrong: then the first such field has the focus. */
  inputs() {
    const inputs = {};
    const errors = {};
    for (const field of this.fields) {
      try {
        const value = field.value();
        if (value !== undefined) inputs[field.name] = value;
      } catch (wrong) {
        if (!(wrong instanceof Wrong)) throw wrong;
        errors[field.name] = [wrong.message];
      }
    }
    this.complain(errors);
    return Object.keys(errors).length ? null : inputs;
  }

  /** Shows sentences at their fields and returns those that belong to none. */
  complain(errors) {
    const left = [];
    const mine = new Map(this.fields.map((field) => [field, []]));
    for (const [path, sentences] of Object.entries(errors)) {
      const name = path.replace(/^inputs\./, "");
      const field = this.fields.find((one) => name === one.name || name.startsWith(`${one.name}.`));
      const inner = field && name !== field.name ? `${name.slice(field.name.length + 1)}: ` : "";
      for (const sentence of [sentences].flat()) {
        if (field) mine.get(field).push(inner + sentence);
        else left.push(["flow", "inputs"].includes(path) ? sentence : `${path}: ${sentence}`);
      }
    }
    for (const [field, sentences] of mine) field.complain(sentences);
    this.fields.find((field) => mine.get(field).length)?.control.focus();
    return left;
  }
}
