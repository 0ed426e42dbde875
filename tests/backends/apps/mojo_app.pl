# Mojolicious, as its guide shows it.
use Mojolicious::Lite -signatures;
use Mojo::JSON qw(encode_json decode_json);
use MIME::Base64 qw(decode_base64url);

sub tell_it ($c, $handler, @readings) {
  my $identity = $c->req->headers->header('X-Verified-Identity') // '';
  my $claims = $identity ? decode_json(decode_base64url((split /\./, $identity)[1])) : {};
  my $line = encode_json({handler => $handler, sub => $claims->{sub}, phones => [grep { defined && length } @readings],
    path => $c->req->url->path->to_string, htu => $claims->{htu}});
  open my $file, '>>', $ENV{REACHED} or die;
  print $file "$line\n";
  close $file;
  $c->render(json => {});
}

post '/api/register'       => sub ($c) { tell_it($c, 'register', $c->req->body_params->param('phone'), $c->param('phone')) };
post '/api/json/register'  => sub ($c) { tell_it($c, 'register', ($c->req->json // {})->{phone}) };
post '/api/query/register' => sub ($c) { tell_it($c, 'register', $c->req->query_params->param('phone'), $c->param('phone')) };
post '/api/sms/code'       => sub ($c) { tell_it($c, 'send') };
post '/api/json/sms/code'  => sub ($c) { tell_it($c, 'send') };
put '/api/account'         => sub ($c) { tell_it($c, 'account') };
any '/*any' => {any => ''} => sub ($c) { $c->render(json => {}) };
app->log->level('fatal');
app->secrets(['x']);
app->start;
