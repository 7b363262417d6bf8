// The network of a decoder in plain JavaScript: from latents to the means that the page shows. `_network.py` writes it
// into the page, and compares its own reading of it with the model before it does.
const decoding = (() => {
  const floats = (text) => {
    const raw = atob(text);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new Float32Array(bytes.buffer);
  };

  // Abramowitz and Stegun 7.1.26: to 1.5e-7.
  const erf = (x) => {
    const t = 1 / (1 + 0.3275911 * Math.abs(x));
    const sum = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    return Math.sign(x) * (1 - sum * Math.exp(-x * x));
  };
  const sigmoid = (x) => (x < 0 ? Math.exp(x) / (1 + Math.exp(x)) : 1 / (1 + Math.exp(-x)));
  const softplus = (x) => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
  const activations = {
    gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
    relu: (x) => Math.max(x, 0),
    softplus,
    tanh: Math.tanh,
    sigmoid,
  };

  const linear = ({ weight, bias, inputs, outputs }) => (x) => {
    const y = new Float64Array(outputs);
    for (let o = 0; o < outputs; o++) {
      let sum = bias ? bias[o] : 0;
      for (let i = 0; i < inputs; i++) sum += weight[o * inputs + i] * x[i];
      y[o] = sum;
    }
    return y;
  };
  const gated = (x) => {
    const half = x.length / 2;
    return x.slice(0, half).map((value, i) => value * sigmoid(x[half + i]));
  };
  const layer = (given) => {
    if (given.op === "linear") return linear({ ...given, weight: floats(given.weight), bias: given.bias && floats(given.bias) });
    return given.op === "gated" ? gated : (x) => x.map(activations[given.op]);
  };

  const softmax = (x) => {
    const top = x.reduce((a, b) => Math.max(a, b), -Infinity);
    const weights = x.map((value) => Math.exp(value - top));
    const sum = weights.reduce((a, b) => a + b, 0);
    return weights.map((value) => value / sum);
  };
  const entries = (count, value) => Array.from({ length: count }, (_, i) => value(i));
  // From features to means, by what the likelihood is; `shift`, `unit` and `more` have a number for each entry.
  const heads = {
    location: (x, { count, width, shift, unit }) => entries(count, (i) => shift[i] + unit[i] * x[i * width]),
    logarithm: (x, { count, width, shift, unit, more }) =>
      entries(count, (i) => Math.exp(shift[i] + unit[i] * x[i * width] + more[i])),
    trials: (x, { count, unit }) => entries(count, (i) => unit[i] * sigmoid(x[i])),
    count: (x, { count, unit }) => entries(count, (i) => softplus(unit[i] * x[i]) + 1e-6),
    levels: (x, { count, width }) =>
      entries(count, (i) => softmax(x.slice(i * width, (i + 1) * width)).reduce((sum, p, k) => sum + p * k, 0)),
    probabilities: (x) => Array.from(softmax(x)),
  };

  const part = (given) => {
    const layers = given.layers.map(layer);
    const beside = given.beside && layer(given.beside);
    const offset = given.offset && floats(given.offset);
    const read = given.heads.map((head) => {
      const numbers = Object.fromEntries(["shift", "unit", "more"].map((k) => [k, head[k] && floats(head[k])]));
      return (x) => heads[head.op](x, { ...head, ...numbers });
    });
    return (z) => {
      let x = layers.reduce((value, apply) => apply(value), Float64Array.from(z));
      if (beside) x = beside(z).map((value, i) => value + x[i]);
      if (offset) x = x.map((value, i) => value + offset[i]);
      let at = 0;
      return given.heads.flatMap((head, k) => {
        const mine = x.slice(at, at + head.count * head.width);
        at += head.count * head.width;
        return read[k](mine);
      });
    };
  };
  // A function from latents, and the level of a label if there is one, to all means, those of one part after those of the other.
  const decoder = (network) => {
    const parts = network.parts.map(part);
    const choice = network.choice;
    const inputs = choice && floats(choice.inputs);
    // The latents where they stand among what the decoder gets, beside what it gets of the level of a label.
    const beside = (z, level) => {
      const x = Float64Array.from(inputs.slice(level * choice.width, (level + 1) * choice.width));
      z.forEach((value, i) => (x[choice.at + i] += value));
      return x;
    };
    return (z, level = 0) => {
      const x = choice ? beside(z, level) : z;
      return parts.flatMap((apply) => apply(x));
    };
  };
  return { decoder, floats };
})();
