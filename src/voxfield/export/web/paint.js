// Pictures: the shader's program, and drawing with it strip by strip.

function compile(gl, scene, textures) {
  const shader = (kind, text) => {
    const made = gl.createShader(kind);
    gl.shaderSource(made, text);
    gl.compileShader(made);
    if (!gl.getShaderParameter(made, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(made));
    return made;
  };
  const program = gl.createProgram();
  // One triangle that covers everything.
  const corners = "void main() { gl_Position = vec4(gl_VertexID == 1 ? 3 : -1, gl_VertexID == 2 ? 3 : -1, 0, 1); }";
  const head = `#version 300 es\n#define DEGREE ${scene.degree}\n#define TEXTURES ${textures}\n`;
  gl.attachShader(program, shader(gl.VERTEX_SHADER, `#version 300 es\n${corners}`));
  gl.attachShader(program, shader(gl.FRAGMENT_SHADER, head + element("shader").textContent));
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program));
  gl.useProgram(program);
  return (name) => gl.getUniformLocation(program, name);
}

// Pictures of any part of the canvas' size, drawn strip by strip, then shown at once.
class Painter {
  constructor(gl, scene, filled) {
    this.gl = gl;
    const at = (this.at = compile(gl, scene, filled.textures));
    gl.uniform1i(at("u_bricks"), 0);
    gl.uniform1i(at("u_density"), 1);
    gl.uniform1iv(at("u_colours"), Array.from({ length: filled.textures }, (_, i) => 2 + i));
    gl.uniform4fv(at("u_gain"), filled.gain);
    gl.uniform4fv(at("u_base"), filled.base);
    gl.uniform3fv(at("u_size"), scene.size);
    gl.uniform3fv(at("u_low"), scene.low);
    gl.uniform3fv(at("u_high"), scene.high);
    gl.uniform3fv(at("u_texel"), filled.atlas.map((texels) => 1 / texels));
    gl.uniform1f(at("u_thickness"), 1 / scene.voxel);
    gl.uniform1f(at("u_near"), scene.near);
    gl.uniform1i(at("u_linear"), scene.linear ? 1 : 0);
    this.unit = gl.TEXTURE0 + 2 + filled.textures;
    this.buffer = gl.createFramebuffer();
    this.width = this.height = 0;
  }

  // A new surface to draw on, of the canvas' size.
  resize(width, height) {
    const gl = this.gl;
    if (this.width === width && this.height === height) return;
    [this.width, this.height] = [gl.canvas.width, gl.canvas.height] = [width, height];
    gl.deleteTexture(this.texture);
    this.texture = gl.createTexture();
    gl.activeTexture(this.unit);
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.texStorage2D(gl.TEXTURE_2D, 1, gl.RGBA8, width, height);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.buffer);
    gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, this.texture, 0);
  }

  begin(look, width, height, step) {
    const { gl, at } = this;
    gl.uniform3fv(at("u_eye"), look.eye);
    gl.uniformMatrix3fv(at("u_axes"), false, look.axes.flat());
    gl.uniform2fv(at("u_tangent"), look.tangents(this.width / this.height));
    gl.uniform2f(at("u_pixels"), width, height);
    gl.uniform4fv(at("u_background"), look.background);
    gl.uniform1f(at("u_step"), step);
    gl.viewport(0, 0, width, height);
    [this.partWide, this.partHigh, this.done] = [width, height, 0];
  }

  // Draw the next rows; returns the milliseconds that took.
  strip(rows) {
    const gl = this.gl, from = performance.now();
    const count = Math.min(rows, this.partHigh - this.done);
    gl.bindFramebuffer(gl.FRAMEBUFFER, this.buffer);
    gl.enable(gl.SCISSOR_TEST);
    gl.scissor(0, this.done, this.partWide, count);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    gl.disable(gl.SCISSOR_TEST);
    // Drawing only ends now: without reading nothing would wait for it.
    gl.readPixels(0, this.done, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
    this.done += count;
    return performance.now() - from;
  }

  show() {
    const gl = this.gl;
    gl.bindFramebuffer(gl.READ_FRAMEBUFFER, this.buffer);
    gl.bindFramebuffer(gl.DRAW_FRAMEBUFFER, null);
    const same = this.partWide === this.width && this.partHigh === this.height;
    gl.blitFramebuffer(0, 0, this.partWide, this.partHigh, 0, 0, this.width, this.height, gl.COLOR_BUFFER_BIT,
      same ? gl.NEAREST : gl.LINEAR);
  }
}
