// The playground's mathematics: the network of ddpm_edu/unet.py and the sampler of ddpm_edu/samplers.py, on plain arrays.
// A function that mirrors one of the package carries its name; tests/test_playground.py holds each to it. Numbers are
// float64 throughout. An image is 64 numbers, row by row; a stack of feature maps is one such array after the other.
"use strict";

const diffusion = (() => {
  // The weights -----------------------------------------------------------------------------------------------------

  // `stored`, made by book/_ext/playground.py: { network, T, tensors: [[name, shape], …], data }, where data
  // is all tensors one after the other, float16, little endian, as base64. Gives { network, tensors: name -> array }.
  function unpack(stored) {
    const bytes = atob(stored.data);
    let at = 0;
    const half = () => { // IEEE 754 binary16: one bit of sign, five of exponent, ten of fraction
      const bits = bytes.charCodeAt(at) | (bytes.charCodeAt(at + 1) << 8);
      at += 2;
      const exponent = (bits >> 10) & 31, fraction = (bits & 1023) / 1024;
      const size = exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction;
      return bits & 0x8000 ? -size : size;
    };
    const tensors = {};
    for (const [name, shape] of stored.tensors) {
      tensors[name] = Float64Array.from({ length: shape.reduce((a, b) => a * b, 1) }, half);
    }
    if (at !== bytes.length) throw new Error(`the weights have ${bytes.length} bytes, their tensors ${at}`);
    return { network: stored.network, tensors };
  }

  // The network: ddpm_edu.unet --------------------------------------------------------------------------------------

  const silu = (x) => x.map((v) => v / (1 + Math.exp(-v)));

  // unet.time_embedding; rounded to float32 where PyTorch rounds, since t = 1000 makes rounding of the waves visible.
  function time_embedding(t, dim, shift) {
    const half = dim / 2, out = new Float64Array(dim), f32 = Math.fround;
    for (let i = 0; i < half; i++) {
      const omega = f32(Math.exp(f32(f32(f32(-Math.log(10000)) * i) / (half - shift))));
      out[i] = f32(Math.sin(f32(t * omega)));
      out[half + i] = f32(Math.cos(f32(t * omega)));
    }
    return out;
  }

  // out[o, p] = bias[o] + Σ_k weight[o, k] · columns[p, k], the one product that all layers are made of. Four rows and two
  // columns at a time: the eight sums share what is read, which takes less than half the time.
  function product(weight, bias, columns, pixels) {
    const K = columns.length / pixels, out = new Float64Array(bias.length * pixels);
    const blocked = pixels % 2 ? 0 : bias.length - bias.length % 4;
    for (let o = 0; o < blocked; o += 4) {
      for (let p = 0; p < pixels; p += 2) {
        let a0 = bias[o], b0 = bias[o + 1], c0 = bias[o + 2], d0 = bias[o + 3], a1 = a0, b1 = b0, c1 = c0, d1 = d0;
        let a = o * K, b = a + K, c = b + K, d = c + K, x = p * K, y = x + K;
        for (let k = 0; k < K; k++, a++, b++, c++, d++, x++, y++) {
          const u = columns[x], v = columns[y], wa = weight[a], wb = weight[b], wc = weight[c], wd = weight[d];
          a0 += wa * u, b0 += wb * u, c0 += wc * u, d0 += wd * u;
          a1 += wa * v, b1 += wb * v, c1 += wc * v, d1 += wd * v;
        }
        const to = o * pixels + p;
        out[to] = a0, out[to + pixels] = b0, out[to + 2 * pixels] = c0, out[to + 3 * pixels] = d0;
        out[to + 1] = a1, out[to + pixels + 1] = b1, out[to + 2 * pixels + 1] = c1, out[to + 3 * pixels + 1] = d1;
      }
    }
    for (let o = blocked; o < bias.length; o++) {
      for (let p = 0; p < pixels; p++) {
        let sum = bias[o];
        for (let k = 0; k < K; k++) sum += weight[o * K + k] * columns[p * K + k];
        out[o * pixels + p] = sum;
      }
    }
    return out;
  }

  // nn.Linear, W x + b; nn.Conv2d with kernel 1 is the same at every pixel.
  function linear(x, weight, bias, pixels = 1) {
    const channels = x.length / pixels, columns = new Float64Array(x.length);
    for (let c = 0; c < channels; c++) {
      for (let p = 0; p < pixels; p++) columns[p * channels + c] = x[c * pixels + p];
    }
    return product(weight, bias, columns, pixels);
  }

  // nn.Conv2d with kernel 3: each pixel's neighbourhood, 0 outside of the image, in a column. Padded by 1 all around, or,
  // at stride 2, right and below only (unet.Downsample).
  function conv3(x, side, weight, bias, stride = 1) {
    const area = side * side, K = 9 * x.length / area, small = side / stride, edge = stride === 1 ? 1 : 0;
    const columns = new Float64Array(small * small * K);
    for (let row = 0, to = 0; row < small; row++) {
      for (let column = 0; column < small; column++) {
        for (let start = 0; start < x.length; start += area) {
          for (let r = row * stride - edge, i = 0; i < 3; i++, r++) {
            for (let c = column * stride - edge, j = 0; j < 3; j++, c++, to++) {
              if (r >= 0 && r < side && c >= 0 && c < side) columns[to] = x[start + r * side + c];
            }
          }
        }
      }
    }
    return product(weight, bias, columns, small * small);
  }

  // unet.group_norm: as many groups as fit, up to 32, each of at least four channels.
  function group_norm(x, weight, bias, eps) {
    const channels = weight.length, area = x.length / channels, out = new Float64Array(x.length);
    let groups = Math.min(32, channels);
    while (groups > 1 && (channels % groups || channels / groups < 4)) groups--;
    const size = x.length / groups;
    for (let g = 0; g < groups; g++) {
      let mean = 0, square = 0;
      for (let k = g * size; k < (g + 1) * size; k++) mean += x[k] / size;
      for (let k = g * size; k < (g + 1) * size; k++) square += (x[k] - mean) ** 2 / size;
      const scale = 1 / Math.sqrt(square + eps);
      for (let k = g * size; k < (g + 1) * size; k++) {
        const c = Math.floor(k / area);
        out[k] = (x[k] - mean) * scale * weight[c] + bias[c];
      }
    }
    return out;
  }

  const add = (x, y) => x.map((v, k) => v + y[k]);
  const add_to_channels = (x, v) => x.map((value, k) => value + v[Math.floor(k / (x.length / v.length))]);

  function concatenate(x, y) {
    const out = new Float64Array(x.length + y.length);
    out.set(x);
    out.set(y, x.length);
    return out;
  }

  // The nearest neighbour: every pixel four times (unet.Upsample).
  function enlarge(x, side) {
    const wide = 2 * side, of = (k) => k % wide >> 1; // the column it comes from
    return Float64Array.from({ length: 4 * x.length }, (_, k) => x[(Math.floor(k / wide) >> 1) * side + of(k)]);
  }

  // unet.UNet: gives (x_t, t, y) -> eps_hat, for one image; y is 0..classes-1, or `classes` for "not told".
  function unet({ network, tensors }) {
    const { size, base, multipliers, blocks, attention, norm_eps, shift, classes } = network;
    const of = (layer) => [tensors[`${layer}.weight`], tensors[`${layer}.bias`]];
    const norm = (x, layer) => group_norm(x, ...of(layer), norm_eps);
    const conv = (x, side, layer, stride) => conv3(x, side, ...of(layer), stride);

    function res_block(x, side, time, at) { // unet.ResBlock
      let h = conv(silu(norm(x, `${at}.norm1`)), side, `${at}.conv1`);
      h = norm(add_to_channels(h, linear(time, ...of(`${at}.time`))), `${at}.norm2`);
      const skip = `${at}.skip.weight` in tensors ? linear(x, ...of(`${at}.skip`), side * side) : x;
      return add(skip, conv(silu(h), side, `${at}.conv2`));
    }

    function attend(x, side, at) { // unet.Attention, with one head
      const area = side * side, channels = x.length / area;
      const qkv = linear(norm(x, `${at}.norm`), ...of(`${at}.qkv`), area);
      const h = new Float64Array(x.length), [k_from, v_from] = [x.length, 2 * x.length];
      for (let p = 0; p < area; p++) {
        const looks = new Float64Array(area); // exp(q·k / √d), from this pixel to every other
        let most = -Infinity, sum = 0;
        for (let r = 0; r < area; r++) {
          for (let c = 0; c < channels; c++) looks[r] += qkv[c * area + p] * qkv[k_from + c * area + r];
          most = Math.max(most, (looks[r] /= Math.sqrt(channels)));
        }
        for (let r = 0; r < area; r++) sum += looks[r] = Math.exp(looks[r] - most);
        for (let c = 0; c < channels; c++) {
          for (let r = 0; r < area; r++) h[c * area + p] += looks[r] / sum * qkv[v_from + c * area + r];
        }
      }
      return add(x, linear(h, ...of(`${at}.out`), area));
    }

    function block(x, side, time, at) { // unet.Block
      const h = res_block(x, side, time, `${at}.res`);
      return attention.includes(side) ? attend(h, side, `${at}.attention`) : h;
    }

    return (x_t, t, y = classes) => {
      let time = linear(silu(linear(time_embedding(t, base, shift), ...of("time.0"))), ...of("time.2"));
      time = silu(add(time, tensors["classes.weight"].subarray(y * time.length, (y + 1) * time.length)));
      let side = size, h = conv(x_t, side, "first"), at = 0;
      const kept = [h];
      for (let level = 0; level < multipliers.length; level++) { // down: every output is kept …
        if (level) {
          kept.push(h = conv(h, side, `down.${at++}.conv`, 2));
          side /= 2;
        }
        for (let k = 0; k < blocks; k++) kept.push(h = block(h, side, time, `down.${at++}`));
      }
      h = res_block(attend(res_block(h, side, time, "middle.0.res"), side, "middle.0.attention"), side, time, "middle.1.res");
      at = 0;
      for (let level = multipliers.length - 1; level >= 0; level--) { // … and handed to its mirror image on the way up
        for (let k = 0; k <= blocks; k++) h = block(concatenate(h, kept.pop()), side, time, `up.${at++}`);
        if (level) {
          h = conv(enlarge(h, side), 2 * side, `up.${at++}.conv`);
          side *= 2;
        }
      }
      return conv(silu(norm(h, "last.0")), side, "last.2");
    };
  }

  // The schedule: ddpm_edu.schedules --------------------------------------------------------------------------------

  // NoiseSchedule.cosine: the table ᾱ_0 … ᾱ_T.
  function cosine(T, offset = 0.008, max_beta = 0.999) {
    const f = (t) => Math.cos(Math.PI / 2 * (t / T + offset) / (1 + offset)) ** 2;
    const alpha_bars = Float64Array.of(1, ...Array(T));
    for (let t = 1; t <= T; t++) alpha_bars[t] = alpha_bars[t - 1] * (1 - Math.min(1 - f(t) / f(t - 1), max_beta));
    return alpha_bars;
  }

  // NoiseSchedule.steps: n moves, evenly spaced, from T to 0.
  function steps(T, n) {
    return Array.from({ length: n + 1 }, (_, k) => Math.floor((T * (n - k) + Math.floor(n / 2)) / n));
  }

  // One step: ddpm_edu.diffusion.GaussianDiffusion ------------------------------------------------------------------

  // √ᾱ_t x_0 + √(1 - ᾱ_t) ε
  function q_sample(alpha_bars, x_0, t, eps) {
    const signal = Math.sqrt(alpha_bars[t]), noise = Math.sqrt(1 - alpha_bars[t]);
    return x_0.map((x, k) => signal * x + noise * eps[k]);
  }

  // (x_t - √(1 - ᾱ_t) ε) / √ᾱ_t
  function x0_from_eps(alpha_bars, x_t, eps, t) {
    const signal = Math.sqrt(alpha_bars[t]), noise = Math.sqrt(1 - alpha_bars[t]);
    return x_t.map((x, k) => (x - noise * eps[k]) / signal);
  }

  // N(of_x_0 · x_0 + of_x_t · x_t, sigma2 I), the law of x_s, with σ² = η² β̃; η = 1 is q_posterior, η = 0 a point.
  function q_ddim(alpha_bars, t, s, eta) {
    const alpha_bar_t = alpha_bars[t], alpha_bar_s = alpha_bars[s];
    const beta_tilde = (1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s);
    const sigma2 = eta ** 2 * beta_tilde, of_x_t = Math.sqrt((1 - alpha_bar_s - sigma2) / (1 - alpha_bar_t));
    return { of_x_0: Math.sqrt(alpha_bar_s) - Math.sqrt(alpha_bar_t) * of_x_t, of_x_t, sigma2 };
  }

  // The sampler: ddpm_edu.samplers, .guidance, .steering ------------------------------------------------------------

  // guidance.guided: unconditional + scale · (conditional - unconditional); one call where one suffices.
  function guided(network, y, scale) {
    return (x_t, t) => {
      if (scale === 1) return network(x_t, t, y);
      const unconditional = network(x_t, t);
      if (scale === 0) return unconditional;
      const conditional = network(x_t, t, y);
      return unconditional.map((u, k) => u + scale * (conditional[k] - u));
    };
  }

  // p_mean_variance's x̂_0, with clip = 1.
  function estimate(alpha_bars, eps_model, x_t, t) {
    return x0_from_eps(alpha_bars, x_t, eps_model(x_t, t), t).map((v) => Math.max(-1, Math.min(1, v)));
  }

  // ddim, with clip = 1: yields { t, x_t, x_0_hat } for every state, the start and x_0 included. `noise()` is one draw
  // from N(0, 1). With `known` = { x_0, mask } it is steering.inpaint: where the mask is true, every new state is replaced
  // by x_0, noised as far.
  function* ddim(alpha_bars, eps_model, x_T, visited, eta, noise, known = null) {
    const draw = () => Float64Array.from(x_T, noise);
    let x_t = x_T;
    for (let k = 0; k + 1 < visited.length; k++) {
      const t = visited[k], s = visited[k + 1], x_0_hat = estimate(alpha_bars, eps_model, x_t, t);
      yield { t, x_t, x_0_hat };
      const { of_x_0, of_x_t, sigma2 } = q_ddim(alpha_bars, t, s, eta);
      const z = sigma2 > 0 ? draw() : null; // at η = 0, and in the last move, nothing is drawn
      x_t = x_t.map((x, i) => of_x_0 * x_0_hat[i] + of_x_t * x + (z ? Math.sqrt(sigma2) * z[i] : 0));
      if (known) {
        const x_s = s > 0 ? q_sample(alpha_bars, known.x_0, s, draw()) : known.x_0;
        x_t = x_t.map((x, i) => (known.mask[i] ? x_s[i] : x));
      }
    }
    yield { t: 0, x_t, x_0_hat: x_t };
  }

  // Random numbers --------------------------------------------------------------------------------------------------

  // A stream of draws from N(0, 1), the same for a seed in every browser. The state walks around the integers mod 2³² in
  // steps of 2³²/golden ratio; `mix` (the last step of MurmurHash3) scatters it; two such numbers make a normal one (Box
  // and Muller). It is rounded to 2⁻²⁰, so that the last digit of a browser's own log and cos does not matter.
  function normals(seed) {
    const mix = (h) => {
      h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
      h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
      return (h ^ (h >>> 16)) >>> 0;
    };
    let state = mix(seed);
    const uniform = () => (mix(state = (state + 0x9e3779b9) >>> 0) + 0.5) / 2 ** 32;
    return () => {
      const radius = Math.sqrt(-2 * Math.log(uniform()));
      return Math.round(radius * Math.cos(2 * Math.PI * uniform()) * 2 ** 20) / 2 ** 20;
    };
  }

  return { unpack, time_embedding, unet, cosine, steps, q_sample, x0_from_eps, q_ddim, guided, estimate, ddim, normals };
})();
