// One ray a pixel through a sparse grid of voxels: the equations of kernels/sh_grid/api.py on a GPU.
//
// p      position in voxels: voxel i is the value at p = i, the box ends at -1/2 and size - 1/2; inside that p is
//        clamped to [0, size - 1]
// cell   what lies between eight voxels, c = min(floor(p), size - 2)
// brick  4 x 4 x 4 cells. Those with matter lie in atlases, 5 x 5 x 5 texels each (the last along each axis are the
//        next brick's first), so that the hardware interpolates within them.
// u_bricks says of each brick where it lies in the atlases (three times 10 bits), or, with bit 31, that it is empty
// and how many bricks away (diagonals count as one) the nearest with matter is.
//
// Defined before this text: DEGREE, the highest band of the harmonics; TEXTURES, how many atlases hold coefficients:
// the first the constant band of red, green, blue, then PARTS for each of them, four coefficients in a texel.

precision highp float;
precision highp int;
precision highp sampler3D;
precision highp usampler3D;

#define PARTS ((TEXTURES - 1) / 3)

uniform usampler3D u_bricks;
uniform sampler3D u_density;            // optical thickness of a voxel's longest side
uniform sampler3D u_colours[TEXTURES];  // codes of coefficients / 255
uniform vec4 u_gain[TEXTURES];          // coefficient = gain * texel + base
uniform vec4 u_base[TEXTURES];
uniform vec3 u_size;                    // voxels
uniform vec3 u_low;                     // the box in the world
uniform vec3 u_high;
uniform vec3 u_texel;                   // 1 / texels of the atlases
uniform float u_thickness;              // 1 / a voxel's longest side
uniform float u_step;                   // distance of samples, voxels
uniform float u_near;                   // distance of the first, world units
uniform vec3 u_eye;
uniform mat3 u_axes;                    // right, up, back
uniform vec2 u_tangent;                 // of half the angles of view
uniform vec2 u_pixels;
uniform vec4 u_background;              // in the space of the field's colours; a = 0: none
uniform bool u_linear;                  // colours are linear light, not sRGB values

out vec4 seen;

const float CONSTANT = 0.28209479177387814;
const uint EMPTY = 0x80000000u;

#if DEGREE > 0
vec4 basis[PARTS];

// Real spherical harmonics without the first, as kernels/spherical_harmonics has them.
void find_basis(vec3 d) {
  float x = d.x, y = d.y, z = d.z, xx = x * x, yy = y * y, zz = z * z;
  vec3 first = vec3(-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x);
#if DEGREE == 1
  basis[0] = vec4(first, 0.0);
#else
  basis[0] = vec4(first, 1.0925484305920792 * x * y);
  basis[1] = vec4(-1.0925484305920792 * y * z, 0.31539156525252005 * (2.0 * zz - xx - yy),
                  -1.0925484305920792 * x * z, 0.5462742152960396 * (xx - yy));
#endif
#if DEGREE == 3
  basis[2] = vec4(-0.5900435899266435 * y * (3.0 * xx - yy), 2.890611442640554 * x * y * z,
                  -0.4570457994644658 * y * (4.0 * zz - xx - yy),
                  0.3731763325901154 * z * (2.0 * zz - 3.0 * xx - 3.0 * yy));
  basis[3] = vec4(-0.4570457994644658 * x * (4.0 * zz - xx - yy), 1.445305721320277 * z * (xx - yy),
                  -0.5900435899266435 * x * (xx - 3.0 * yy), 0.0);
#endif
}

#define BASE(part) vec3(dot(u_base[1 + part], basis[part]), dot(u_base[1 + PARTS + part], basis[part]), \
                        dot(u_base[1 + 2 * PARTS + part], basis[part]))
// Textures of an array take constant indices only.
#define ONE(index, part) dot(textureLod(u_colours[index], at, 0.0) * u_gain[index], basis[part])
#define SEEN(part) vec3(ONE(1 + part, part), ONE(1 + PARTS + part, part), ONE(1 + 2 * PARTS + part, part))
#endif

// What the codes' zeros and the 1/2 come to: the same along the whole ray.
vec3 find_base() {
  vec3 base = 0.5 + CONSTANT * u_base[0].rgb;
#if DEGREE > 0
  base += BASE(0);
#endif
#if DEGREE > 1
  base += BASE(1);
#endif
#if DEGREE > 2
  base += BASE(2) + BASE(3);
#endif
  return base;
}

vec3 colour_at(vec3 at, vec3 base) {
  vec3 colour = base + CONSTANT * textureLod(u_colours[0], at, 0.0).rgb * u_gain[0].rgb;
#if DEGREE > 0
  colour += SEEN(0);
#endif
#if DEGREE > 1
  colour += SEEN(1);
#endif
#if DEGREE > 2
  colour += SEEN(2) + SEEN(3);
#endif
  return max(colour, 0.0);
}

vec3 srgb(vec3 linear) {
  vec3 x = clamp(linear, 0.0, 1.0);
  return mix(12.92 * x, 1.055 * pow(max(x, 0.0031308), vec3(1.0 / 2.4)) - 0.055, step(0.0031308, x));
}

// Colour times opacity of what the ray meets, and the light that passes.
vec4 march(vec3 direction) {
  vec3 voxels = u_size / (u_high - u_low);
  vec3 pace = direction * voxels;
  // No division by zero below; so slow a ray leaves nothing that it does not leave anyway.
  pace = mix(pace, vec3(1e-9), lessThan(abs(pace), vec3(1e-9)));
  vec3 eye = (u_eye - u_low) * voxels - 0.5;
  vec3 one = (-0.5 - eye) / pace, other = (u_size - 0.5 - eye) / pace;
  vec3 nearer = min(one, other), farther = max(one, other);
  float enter = max(max(nearer.x, nearer.y), max(nearer.z, u_near));
  float leave = min(min(farther.x, farther.y), farther.z);
  vec4 nothing = vec4(0.0, 0.0, 0.0, 1.0);
  if (!(enter < leave)) return nothing;

  float spacing = u_step / length(pace), thickness = spacing * u_thickness;
  float count = ceil((leave - enter) / spacing - 0.5);
  vec3 stride = pace * spacing, start = eye + (enter + 0.5 * spacing) * pace;
#if DEGREE > 0
  find_basis(direction);
#endif
  vec3 base = find_base(), colour = vec3(0.0);
  float light = 1.0, k = 0.0;
  while (k < count && light > 1e-3) {
    vec3 p = start + k * stride, inside = clamp(p, vec3(0.0), u_size - 1.0);
    ivec3 brick = ivec3(min(floor(inside), u_size - 2.0)) >> 2;
    uint entry = texelFetch(u_bricks, brick, 0).r;
    if ((entry & EMPTY) != 0u) {
      // To the first sample outside of the cube of bricks that are known to be empty.
      float clear = float(entry & 0xffu);
      vec3 end = 4.0 * mix(vec3(brick) + 1.0 - clear, vec3(brick) + clear, greaterThan(stride, vec3(0.0)));
      vec3 left = (end - p) / stride;
      k = max(k + 1.0, ceil(k + min(left.x, min(left.y, left.z))));
      continue;
    }
    vec3 corner = vec3(entry & 1023u, (entry >> 10) & 1023u, (entry >> 20) & 1023u) * 5.0;
    vec3 at = (corner + inside - vec3(brick * 4) + 0.5) * u_texel;
    float density = textureLod(u_density, at, 0.0).r;
    if (density > 0.0) {
      float passed = exp(-density * thickness);
      colour += light * (1.0 - passed) * colour_at(at, base);
      light *= passed;
    }
    k += 1.0;
  }
  return vec4(colour, light);
}

void main() {
  vec2 at = (2.0 * gl_FragCoord.xy / u_pixels - 1.0) * u_tangent;
  vec4 met = march(normalize(u_axes * vec3(at, -1.0)));
  float behind = met.a * u_background.a, opacity = 1.0 - met.a + behind;
  vec3 shown = met.rgb + behind * u_background.rgb;
  if (u_linear) shown = srgb(shown / max(opacity, 1e-6)) * opacity;
  seen = vec4(min(shown, opacity), opacity);
}
