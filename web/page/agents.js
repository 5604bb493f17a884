/** Which agent answers, and the form in which one is made or changed. */

import { confirmed } from './confirm.js';
import { $, h, setText } from './dom.js';

/** @type {[string, string, Record<string, any>][]} */
const NUMBERS = [
  ['temperature', 'Temperature', { min: 0, max: 2, step: 0.1, placeholder: 'default' }],
  ['max_tokens', 'Tokens in an answer', { min: 1, step: 1, placeholder: 'default' }],
  ['max_parallel_tools', 'Tools at a time', { min: 1, max: 64, step: 1, placeholder: '5' }],
  ['tool_call_timeout', 'Seconds for a call', { min: 0.1, step: 'any', placeholder: '30' }],
  ['max_turns', 'Turns in a run', { min: 1, max: 200, step: 1, placeholder: '20' }],
  ['max_tool_calls', 'Calls in a run', { min: 1, max: 1000, step: 1, placeholder: '100' }],
];

export class Agents {
  #agents = [];
  #fields = new Map();
  #fixed = [];
  #tools = [];
  #model = '';
  #picker = $('agent');
  #dialog = $('agent-dialog');
  #problem = h('p.fault', { role: 'alert', hidden: true });

  /**
   * @param {import('../client.js').ParleyClient} client
   * @param {(name: string, isChoice: boolean) => void} chosen
   */
  constructor(client, chosen) {
    this.client = client;
    this.chosen = chosen;
    this.name = 'chat';
    this.#picker.addEventListener('change', () => this.select(this.#picker.value));
    $('agent-new').addEventListener('click', () => this.#open(null));
    $('agent-edit').addEventListener('click', () => this.#open(this.agent));
  }

  /** What is known of the agent that answers. */
  get agent() {
    return this.#agents.find((each) => each.agent_name === this.name) ?? null;
  }

  /** Load the agents that there are; `health`: what `GET /health` says. */
  async refresh({ tools, model }) {
    this.#tools = tools;
    this.#model = model;
    await this.#load();
  }

  async #load() {
    const { agents, fixed } = await this.client.request('GET', '/agents');
    this.#agents = agents;
    this.#fixed = fixed;
    this.select(this.name, false);
  }

  #isThere(name) {
    return this.#fixed.includes(name) || this.#agents.some((each) => each.agent_name === name);
  }

  /** Let an agent answer, or the default where it is gone; `isChoice`: the user said so. */
  select(name, isChoice = true) {
    this.name = this.#agents.length && !this.#isThere(name) ? 'chat' : name;
    const options = this.#agents.map((each) => {
      return h('option', { value: each.agent_name }, labelOf(each));
    });
    options.push(...this.#fixed.map((each) => h('option', { value: each }, each)));
    this.#picker.replaceChildren(...options);
    this.#picker.value = this.name;
    $('agent-edit').hidden = !this.agent;
    this.chosen(this.name, isChoice);
  }

  #open(agent) {
    this.isNew = agent === null;
    this.#fields = new Map();
    this.#problem.hidden = true;
    const form = h('form.agent-form', { method: 'dialog', noValidate: true },
      h('h2', { id: 'agent-title' }, agent ? `Agent “${agent.agent_name}”` : 'New agent'),
      agent?.built_in && h('p.muted', {},
        'It comes with the service: it can be changed, not deleted.'),
      this.#problem, ...this.#basics(agent), this.#toolBoxes(agent), this.#limits(agent),
      this.#buttons(agent));
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#save();
    });
    this.#dialog.replaceChildren(form);
    this.#dialog.setAttribute('aria-labelledby', 'agent-title');
    this.#dialog.showModal();
    this.#fields.get(agent ? 'instructions' : 'agent_name').input.focus();
  }

  #basics(agent) {
    return [
      this.#field('agent_name', 'Name', h('input', {
        value: agent?.agent_name ?? '', readOnly: Boolean(agent), required: true, maxLength: 64,
        placeholder: 'travel', autocomplete: 'off', spellcheck: false,
      }), 'Letters, digits, - and _. Under this name it is asked over the API, too.'),
      this.#field('instructions', 'Instructions', h('textarea', {
        value: agent?.instructions ?? '', rows: 4, dir: 'auto',
        placeholder: 'You are a travel guide. Answer briefly.',
      })),
      this.#field('model', 'Model', h('input', {
        value: this.#isDefault(agent?.model) ? '' : agent.model, placeholder: this.#model,
        autocomplete: 'off', spellcheck: false,
      }), 'Empty: the service’s default. With several providers: openai:…, anthropic:…, demo.'),
    ];
  }

  #isDefault(model) {
    return model === undefined || model === this.#model;
  }

  #field(name, label, input, hint) {
    input.id = `agent-${name}`;
    input.name = name;
    const fault = h('p.field-fault', { hidden: true, id: `agent-${name}-fault` });
    input.setAttribute('aria-describedby', fault.id);
    this.#fields.set(name, { input, fault });
    return h('div.field', {}, h('label', { htmlFor: input.id }, label), input,
      hint && h('p.hint', {}, hint), fault);
  }

  #toolBoxes(agent) {
    const has = new Set(agent ? agent.tools : this.#tools.map((each) => each.name));
    const boxes = this.#tools.map(({ name, description }) => {
      const checked = has.has(name);
      const box = h('input', { type: 'checkbox', value: name, checked, name: 'tools' });
      return h('label.check', { title: description }, box, h('span', {}, name));
    });
    const checked = agent?.memory ?? false;
    const memory = h('input', { type: 'checkbox', checked, name: 'memory' });
    return h('fieldset', {}, h('legend', {}, 'Tools'), h('div.checks', {}, ...boxes),
      h('label.check', {}, memory, h('span', {}, 'Remembers its users across chats')));
  }

  #limits(agent) {
    const fields = NUMBERS.map(([name, label, properties]) => {
      const value = agent?.[name] ?? '';
      return this.#field(name, label, h('input', { type: 'number', value, ...properties }));
    });
    return h('details.limits', {}, h('summary', {}, 'Sampling and limits'),
      h('div.limits-grid', {}, ...fields));
  }

  #buttons(agent) {
    const remove = agent && !agent.built_in && h('button.plain.danger', {
      type: 'button', onclick: () => this.#remove(agent.agent_name),
    }, 'Delete');
    return h('div.dialog-bar', {}, remove, h('span.grow'),
      h('button.plain', { type: 'button', onclick: () => this.#dialog.close() }, 'Cancel'),
      h('button.primary', { type: 'submit' }, 'Save'));
  }

  #values() {
    const form = this.#dialog.querySelector('form');
    const config = {
      tools: [...form.querySelectorAll('[name=tools]:checked')].map((box) => box.value),
      memory: form.querySelector('[name=memory]').checked,
    };
    for (const [name, { input }] of this.#fields) {
      if (name === 'agent_name' || !input.value.trim()) continue;
      config[name] = input.type === 'number' ? Number(input.value) : input.value;
    }
    const before = this.#agents.find((each) => each.agent_name === this.#nameInForm);
    const { name, handoffs, dialect, fallback_models: fallbacks } = before ?? {};
    return { ...(before && { name, handoffs, dialect, fallback_models: fallbacks }), ...config };
  }

  get #nameInForm() {
    return this.#fields.get('agent_name').input.value.trim();
  }

  async #save() {
    for (const { fault, input } of this.#fields.values()) {
      fault.hidden = true;
      input.removeAttribute('aria-invalid');
    }
    this.#problem.hidden = true;
    const name = this.#nameInForm;
    if (!name) {
      this.#fault('agent_name', 'An agent needs a name.');
      return;
    }
    if (this.isNew && this.#isThere(name)) {
      this.#fault('agent_name', 'There is an agent of this name already.');
      return;
    }
    try {
      await this.client.request('POST', `/agents/${encodeURIComponent(name)}`, this.#values());
      this.#dialog.close();
      await this.#load();
      this.select(name);
    } catch (problem) {
      this.#explain(problem);
    }
  }

  #explain(problem) {
    const faults = problem.errors ?? [];
    const rest = faults.filter(({ field, message }) => !this.#fault(field, message));
    if (faults.length && !rest.length) return;
    setText(this.#problem, [problem.message, ...rest.map((each) => each.message)].join(' '));
    this.#problem.hidden = false;
  }

  #fault(name, message) {
    const field = this.#fields.get(String(name).split('.')[0]);
    if (!field) return false;
    setText(field.fault, message);
    field.fault.hidden = false;
    field.input.setAttribute('aria-invalid', 'true');
    field.input.closest('details')?.setAttribute('open', '');
    field.input.focus();
    field.fault.scrollIntoView({ block: 'nearest' });
    return true;
  }

  async #remove(name) {
    const text = `The agent “${name}” is deleted. Chats with it stay.`;
    if (!(await confirmed('Delete this agent?', text))) return;
    try {
      await this.client.request('DELETE', `/agents/${encodeURIComponent(name)}`);
      this.#dialog.close();
      await this.#load();
    } catch (problem) {
      this.#explain(problem);
    }
  }
}

function labelOf({ agent_name: id, name }) {
  return name && name !== id ? `${id} (${name})` : id;
}
