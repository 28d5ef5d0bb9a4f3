"use strict";
// What the page carries: deflated, base64 coded parts, which export/packed_voxels.py describes; and the textures that
// the shader reads (voxels.glsl says how they are laid out).

const element = (id) => document.getElementById(id);

const SIDE = 4; // of a brick, in voxels
const TEXELS = SIDE + 1; // of its share of an atlas: the last belong to the next brick too
const EMPTY = 0x80000000;
const MOST_APART = 255; // bricks: what an entry can say

function bytesOfBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const bytes = new Uint8Array((text.length / 4) * 3 - (text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0));
  for (let from = 0, to = 0; from < text.length; from += 1 << 20) {
    const piece = atob(text.slice(from, from + (1 << 20)));
    for (let i = 0; i < piece.length; i++) bytes[to++] = piece.charCodeAt(i);
  }
  return bytes;
}

async function part(name) {
  const holder = element(`part-${name}`);
  const packed = bytesOfBase64(holder.textContent);
  holder.remove(); // the text is as large as the file
  const inflated = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(inflated).arrayBuffer());
}

// Bricks that store voxels, and for each of their 64 voxels its row in the values, or -1.
function readTopology(bytes, count, size) {
  const shape = size.map((voxels) => Math.ceil(voxels / SIDE));
  const view = new DataView(bytes.buffer);
  const number = new Int32Array(shape[0] * shape[1] * shape[2]).fill(-1); // of the brick at a place
  const places = new Uint32Array(count);
  const rows = new Int32Array(count * SIDE ** 3).fill(-1);
  let place = 0, row = 0;
  for (let brick = 0; brick < count; brick++) {
    place += view.getUint32(4 * brick, true);
    places[brick] = place;
    number[place] = brick;
    for (let half = 0; half < 2; half++) {
      const mask = view.getUint32(4 * count + 8 * brick + 4 * half, true);
      for (let bit = 0; bit < 32; bit++) {
        if ((mask >>> bit) & 1) rows[64 * brick + 32 * half + bit] = row++;
      }
    }
  }
  return { shape, number, places, rows };
}

// Half floats: a plane of their low bytes, then one of their high bytes.
function readHalves(bytes) {
  const count = bytes.length / 2;
  const halves = new Uint16Array(count);
  for (let i = 0; i < count; i++) halves[i] = bytes[i] | (bytes[count + i] << 8);
  return halves;
}

// Which bricks of cells have a voxel of some density at one of their corners, apron included.
function bricksWithMatter({ shape, places, rows }, density) {
  const full = new Uint8Array(shape[0] * shape[1] * shape[2]);
  const across = [1, shape[0], shape[0] * shape[1]];
  places.forEach((place, brick) => {
    const at = [place % shape[0], Math.floor(place / shape[0]) % shape[1], Math.floor(place / across[2])];
    for (let voxel = 0; voxel < 64; voxel++) {
      const row = rows[64 * brick + voxel];
      if (row < 0 || density[row] === 0 || density[row] & 0x8000) continue;
      // A voxel at the lower side of its brick is the last texel of the brick before.
      const side = ((voxel & 3) === 0 && at[0] > 0) | (((voxel >> 2) & 3) === 0 && at[1] > 0) << 1
        | (voxel >> 4 === 0 && at[2] > 0) << 2;
      for (let step = 0; step < 8; step++) {
        if (step & ~side) continue;
        full[place - (step & 1) - ((step >> 1) & 1) * across[1] - (step >> 2) * across[2]] = 1;
      }
    }
  });
  return full;
}

// Steps from each brick to the nearest with matter, diagonals counting as one: forth and back through the bricks.
function stepsToMatter(full, shape) {
  const steps = new Uint8Array(full.length);
  for (let i = 0; i < full.length; i++) steps[i] = full[i] ? 0 : MOST_APART;
  const before = [];
  for (let dz = -1; dz <= 0; dz++) for (let dy = -1; dy <= 1; dy++) for (let dx = -1; dx <= 1; dx++) {
    if (dz < 0 || dy < 0 || (dy === 0 && dx < 0)) before.push([dx, dy, dz]);
  }
  for (const sign of [1, -1]) {
    for (let n = 0; n < full.length; n++) {
      const i = sign > 0 ? n : full.length - 1 - n;
      if (steps[i] === 0) continue;
      const x = i % shape[0], y = Math.floor(i / shape[0]) % shape[1], z = Math.floor(i / (shape[0] * shape[1]));
      for (const [dx, dy, dz] of before) {
        const u = x + sign * dx, v = y + sign * dy, w = z + sign * dz;
        if (u < 0 || v < 0 || w < 0 || u >= shape[0] || v >= shape[1] || w >= shape[2]) continue;
        steps[i] = Math.min(steps[i], steps[(w * shape[1] + v) * shape[0] + u] + 1);
      }
    }
  }
  return steps;
}

// Where bricks lie in the atlases: what u_bricks holds, the atlases' size, and each texel's row in the values.
function layOut(topology, density, size, largest) {
  const { shape, number, rows } = topology;
  const full = bricksWithMatter(topology, density), steps = stepsToMatter(full, shape);
  const count = full.reduce((sum, one) => sum + one, 0);
  const wide = Math.max(1, Math.ceil(Math.cbrt(count)));
  const high = Math.max(1, Math.ceil(Math.sqrt(count / wide)));
  const across = [wide, high, Math.max(1, Math.ceil(count / (wide * high)))];
  const atlas = across.map((bricks) => bricks * TEXELS);
  if (Math.max(...atlas, ...shape) > largest || Math.max(...across) > 1023) {
    throw new Error(`This device's textures are too small for the scene (${largest} texels).`);
  }
  const entries = new Uint32Array(full.length);
  const texels = new Int32Array(atlas[0] * atlas[1] * atlas[2]).fill(-1);
  let next = 0;
  for (let i = 0; i < full.length; i++) {
    if (!full[i]) {
      entries[i] = EMPTY | steps[i];
      continue;
    }
    const to = [next % wide, Math.floor(next / wide) % high, Math.floor(next / (wide * high))];
    const from = [i % shape[0], Math.floor(i / shape[0]) % shape[1], Math.floor(i / (shape[0] * shape[1]))];
    entries[i] = to[0] | (to[1] << 10) | (to[2] << 20);
    next++;
    for (let z = 0; z < TEXELS; z++) for (let y = 0; y < TEXELS; y++) for (let x = 0; x < TEXELS; x++) {
      const vx = from[0] * SIDE + x, vy = from[1] * SIDE + y, vz = from[2] * SIDE + z;
      if (vx >= size[0] || vy >= size[1] || vz >= size[2]) continue;
      const brick = number[((vz >> 2) * shape[1] + (vy >> 2)) * shape[0] + (vx >> 2)];
      if (brick < 0) continue;
      const texel = ((to[2] * TEXELS + z) * atlas[1] + to[1] * TEXELS + y) * atlas[0] + to[0] * TEXELS + x;
      texels[texel] = rows[64 * brick + (vx & 3) + 4 * (vy & 3) + 16 * (vz & 3)];
    }
  }
  return { entries, shape, atlas, texels };
}

function makeTexture(gl, unit, size, format, pixels) {
  const [inside, outside, type] = format;
  gl.activeTexture(gl.TEXTURE0 + unit);
  gl.bindTexture(gl.TEXTURE_3D, gl.createTexture());
  gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
  gl.texImage3D(gl.TEXTURE_3D, 0, inside, size[0], size[1], size[2], 0, outside, type, pixels);
  const filter = outside === gl.RED_INTEGER ? gl.NEAREST : gl.LINEAR;
  for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_3D, name, filter);
  for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T, gl.TEXTURE_WRAP_R]) {
    gl.texParameteri(gl.TEXTURE_3D, name, gl.CLAMP_TO_EDGE);
  }
}

// For each texture of colours the planes of codes (channel * bands + band) in its four channels; -1: none.
function planesOf(degree) {
  const bands = (degree + 1) ** 2, parts = Math.ceil((bands - 1) / 4);
  const planes = [[0, bands, 2 * bands, -1]];
  for (let channel = 0; channel < 3; channel++) for (let piece = 0; piece < parts; piece++) {
    planes.push([0, 1, 2, 3].map((i) => {
      const band = 1 + 4 * piece + i;
      return band < bands ? channel * bands + band : -1;
    }));
  }
  return planes;
}

// Fill the textures; returns what the shader needs to know of them.
async function upload(gl, scene) {
  const topology = readTopology(await part("topology"), scene.bricks, scene.size);
  const density = readHalves(await part("density"));
  const laid = layOut(topology, density, scene.size, gl.getParameter(gl.MAX_3D_TEXTURE_SIZE));
  const { atlas, texels } = laid;
  makeTexture(gl, 0, laid.shape, [gl.R32UI, gl.RED_INTEGER, gl.UNSIGNED_INT], laid.entries);
  const halves = Uint16Array.from(texels, (row) => (row < 0 ? 0 : density[row]));
  makeTexture(gl, 1, atlas, [gl.R16F, gl.RED, gl.HALF_FLOAT], halves);
  const bands = [];
  for (let band = 0; band <= scene.degree; band++) bands.push(await part(`band-${band}`));
  // Plane channel * bands + b: in part l of band l's harmonics, channel by channel.
  const plane = (number) => {
    const all = (scene.degree + 1) ** 2, channel = Math.floor(number / all), b = number % all;
    const l = Math.floor(Math.sqrt(b)), from = (channel * (2 * l + 1) + b - l * l) * scene.voxels;
    return bands[l].subarray(from, from + scene.voxels);
  };
  const gain = [], base = [];
  const codes = new Uint8Array(4 * texels.length);
  planesOf(scene.degree).forEach((four, unit) => {
    codes.fill(0);
    four.forEach((number, i) => {
      gain.push(number < 0 ? 0 : 255 * scene.steps[number]);
      base.push(number < 0 ? 0 : -scene.zeros[number] * scene.steps[number]);
      if (number < 0) return;
      const values = plane(number), zero = scene.zeros[number];
      for (let t = 0; t < texels.length; t++) codes[4 * t + i] = texels[t] < 0 ? zero : values[texels[t]];
    });
    makeTexture(gl, 2 + unit, atlas, [gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE], codes);
  });
  const error = gl.getError();
  if (error) throw new Error(`This device has not enough graphics memory for the scene (WebGL error ${error}).`);
  return { atlas, gain, base, textures: gain.length / 4 };
}
